"""The plan of a dataset (plan.json): every decision with its reason, and the migration of older plans."""
