"""Volumes in and out: files, crop, intensities, grid, tiles, store. Each map comes with its exact inverse."""
