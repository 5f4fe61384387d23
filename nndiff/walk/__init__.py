"""The parts of a sampler, as a plan stores them. A walk is one sampling run, from source or noise to the target.

Importing these modules does not load torch.
"""
