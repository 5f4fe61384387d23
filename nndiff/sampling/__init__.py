"""A trained network and a source in, a volume out."""
