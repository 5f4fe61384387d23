"""Training: from prepared cases and a plan to checkpoints, with progress tables, figures and a log."""
