"""Simulated data that anyone can make, in the dataset format."""
