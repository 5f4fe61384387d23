"""Public collections → raw datasets: one script a collection. Nothing in nndiff imports them."""
