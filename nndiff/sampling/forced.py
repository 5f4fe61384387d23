"""Teacher forcing: estimates from an x_t that was made from the truth, with the errors that the network expects.

A walk can only be as good as these estimates are at the noise that it visits; they need no walk to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from nndiff.diffusion.prediction import Fused
from nndiff.networks.lean import channels
from nndiff.sampling.translate import Arrangement, Model, composed
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.volume import FloatArray

WALKED = (3.0, 1.0, 0.3)  # sigma/a, as multiples of the open part, at which a training is scored


@torch.no_grad()
def squared_errors(
    model: Model,
    case: Mapping[str, FloatArray],  # source and target, [C, Z, Y, X]
    ratio: float,  # of sigma/a and the open part; infinite: at t = 1
    seed: int,
    sampler: SamplerPlan,
    layout: Arrangement,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the squared error of each voxel of x̂0, and the one that the network expects: [1, C', Z, Y, X] each."""
    prediction, process = model.formulation.prediction, model.formulation.process
    assert isinstance(prediction, Fused)
    source, x0 = (torch.from_numpy(case[side])[None].to(layout.store) for side in ("source", "target"))
    y = channels(source, model.anchor)
    t = torch.ones(1, dtype=torch.float64)
    if not math.isinf(ratio):
        t = t * process.time_of_ratio(ratio * prediction.open_part)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)).to(x0)
    x_t = process.sample(x0, y, t, eps)
    shown, told = model.formulation.view(x_t, y, t)
    output = composed(model, sampler, layout.tiling, ())(shown, told, source)
    weighed = prediction.weighed(process, output, x_t, y, t)
    return (weighed.x0 - x0).square(), weighed.variance


def decibels_gained(
    model: Model, case: Mapping[str, FloatArray], seed: int, sampler: SamplerPlan, layout: Arrangement
) -> float | None:
    """Return by how many dB the estimates on a walk err less than if the open part were white and equal everywhere.

    The mean is over the ratios of WALKED; None for a model that was not trained for a walk.
    """
    prediction = model.formulation.prediction
    if not isinstance(prediction, Fused):
        return None
    gained = []
    for ratio in WALKED:
        error, _ = squared_errors(model, case, ratio, seed, sampler, layout)
        white = prediction.open_part**2 * ratio**2 / (1 + ratio**2)
        gained.append(-10 * math.log10(max(float(error.mean()), 1e-30) / white))
    return sum(gained) / len(gained)
