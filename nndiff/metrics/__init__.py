"""Metrics of estimated volumes: image fidelity, texture, puzzle artefacts, PET uptake, ensembles, distributions."""
