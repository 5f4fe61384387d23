"""Where the reverse path starts.

The published rule in words, the open part as a number: the starting step is the one whose noise-to-signal ratio is a
small multiple of the distance between source and target,  sigma/a (ts) = NOISE_MULTIPLE · rmse(y, x0).
"""

from __future__ import annotations

from nndiff.diffusion.process import DDPM

NOISE_MULTIPLE = 10.0  # the published settings span 5 to 15 (Less Is More, FDG / DOTATATE / PSMA, in [0, 1] units)
STEPS = 1000


def noise_matched_step(rmse: float, multiple: float = NOISE_MULTIPLE) -> int:
    """Of the linear schedule's 1000 steps, the one as noisy as `multiple` times that distance."""
    return DDPM(STEPS).matched_step(multiple * rmse)
