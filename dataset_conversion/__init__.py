"""Convert public collections to raw datasets, with one script per collection. Nothing in nndiff imports them."""
