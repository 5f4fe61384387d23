"""The mathematics of the process, its losses and its starts; plain arguments, no plan, no image files."""
