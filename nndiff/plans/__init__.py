"""The plan: what was decided for a dataset, and why."""
