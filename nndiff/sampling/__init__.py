"""Sampling: a trained network translates one source volume, or generates one volume."""
