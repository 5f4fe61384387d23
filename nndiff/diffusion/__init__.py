"""The mathematics of diffusion: processes, predictions, losses, training objectives and the sampling loop.

The functions take plain arguments. They know neither plans nor image files.
"""
