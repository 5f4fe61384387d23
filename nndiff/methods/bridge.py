"""The bridge method (PPDM): a process that starts at the source itself, so that one step from it is a regression.

x_t = (1 - t)·x0 + t·y + 2·gamma·sqrt(t(1 - t))·eps,  gamma = s/2: at t = 1/2 the noise is as large as the open part s
"""

from __future__ import annotations

import math

from nndiff.diffusion.process import Bridge
from nndiff.methods.common import both_ends, by_ratio, fused, learning_rate, no_reuse, texture_order
from nndiff.methods.method import Data, Method
from nndiff.plans.plan import Stage
from nndiff.walk.part import STEPS
from nndiff.walk.rules import Second
from nndiff.walk.starts import Source
from nndiff.walk.survival import survival
from nndiff.walk.times import Sine
from nndiff.words.scheme import Scheme
from nndiff.words.verdict import Alternative, Verdict
from nndiff.words.volume import Triple

OTHER_GAMMA = 0.1  # one value for all data sets, as before the open part was measured
SHOWN_STEPS = 10  # number of steps for which the reason states what a perfect network would keep


def _process(data: Data) -> Verdict[Scheme]:
    gamma = float(f"{data.open_part / 2:.3g}")
    return Verdict(
        Scheme("bridge", {"gamma": gamma}),
        f"starts at the source itself; half of the open part as noise: with a perfect network, {SHOWN_STEPS} steps of "
        f"second order, dense at both ends, keep {_kept(gamma, data):.0%} of what the source leaves open",
        (Alternative({"gamma": OTHER_GAMMA}, f"keeps {_kept(OTHER_GAMMA, data):.0%}"),),
    )


def _kept(gamma: float, data: Data) -> float:
    process = Bridge(gamma)
    return survival(process, Second(), Sine(STEPS, SHOWN_STEPS)(process, Second()), data.open_part)


def _stages(data: Data, puzzle_factor: Triple) -> Verdict[tuple[Stage, ...]]:
    grid = "suppresses the puzzle's grid" if math.prod(puzzle_factor) > 1 else "keeps edges sharp"
    return both_ends(data, f"which gained 0.8 dB in a trial and {grid}")


BRIDGE = Method(
    name="bridge",
    about="It starts at the source itself: one step gives the most likely value of each voxel, a walk of a few steps "
    "an image with the texture of real scans (--objective texture).",
    tasks=("translation",),
    planned_for=("translation",),
    family="unet",
    process=_process,
    prediction=fused,
    stages=_stages,
    learning_rate=learning_rate,
    start=lambda data: Verdict(Source(), "the path of a bridge begins at the source"),
    first_step=lambda walk: Verdict(STEPS, "the whole path, in few steps"),
    steps=lambda first: Verdict(
        1, "one step from the source gives the best PSNR; a walk, by --objective texture, gives the truth's texture"
    ),
    rule=texture_order,
    cache=no_reuse("the walk has too few steps to reuse features"),
    times=by_ratio,
)
