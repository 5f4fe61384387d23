"""Prepared cases and a plan → a checkpoint, and all that a person wants to see on the way."""
