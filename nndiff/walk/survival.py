"""The variance that survives a walk: how much texture a sampler keeps, known before any training.

Let the target, given the source, be Gaussian with mean m and standard deviation s in each voxel. The best estimate is

    x̂0 = m + s²/(s² + r²)·(u - m),  u = (x_t - b·y)/a,  r = sigma/a          (at a = 0: x̂0 = m)

It is linear in x_t, and so are starts and step rules. The last x of a walk is therefore a sum of the independent noises
that were drawn on the way, each with a coefficient, and of a multiple of y - m. The walk is run once on coefficients,
with the real start and the real rule: the k-th noise is the k-th unit vector. The sum of the squares of the last
coefficients is the variance of the result.

    survival = 1   results vary as the targets do        0   every result is m, the mean: no texture
    bias           the share of y - m that is left in the result, where a late start brought it in
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nndiff.walk.starts import Noise, Source

if TYPE_CHECKING:
    from torch import Tensor

    from nndiff.diffusion.process import Process
    from nndiff.diffusion.walk import Denoise
    from nndiff.walk.rules import Rule
    from nndiff.walk.starts import Start

DRAWS = 2  # the most noises that a rule draws in one step


def survival(process: Process, rule: Rule, times: Sequence[float], s: float, start: Start | None = None) -> float:
    """Return the share of the variance s² of the target, given the source, that a walk with the best estimate keeps.

    Without `start`, the walk starts at the source where the process does, and from noise otherwise.
    """
    _, *noises = _last_x(process, rule, times, s, start)
    return sum(coefficient**2 for coefficient in noises) / s**2


def bias(process: Process, rule: Rule, times: Sequence[float], s: float, start: Start | None = None) -> float:
    """Return the share of y - m that a walk with the best estimate leaves in its result."""
    return _last_x(process, rule, times, s, start)[0]


def _last_x(process: Process, rule: Rule, times: Sequence[float], s: float, start: Start | None) -> list[float]:
    """Return the coefficients of y - m and of each noise in the last x, counted from m."""
    import torch

    from nndiff.diffusion.walk import Course, walk

    class Coefficients(Course):
        """A course whose noises are the unit vectors, one after the other."""

        def noise_like(self, x: Tensor) -> Tensor:
            unit: Tensor = next(units)
            return unit

    start = start or (Source() if process.from_source else Noise())
    size = 2 + DRAWS * len(times)
    y, *basis = torch.eye(size, dtype=torch.float64).reshape(size, 1, 1, 1, 1, size)
    units = iter(basis)
    denoise = _best(process, y, s)
    x = start(process, y, y, times[0], denoise, next(units))
    *_, (x, _, _) = walk(x, times, denoise, rule, Coefficients(process, y))
    return [float(value) for value in x.flatten()]


def _best(process: Process, y: Tensor, s: float) -> Denoise:
    """Return the best estimate for targets of mean m = 0."""
    import torch

    from nndiff.diffusion.prediction import Estimate, eps_of

    def denoise(x_t: Tensor, t: float) -> Estimate:
        a, b, sigma = process.at(t)
        x0 = a * s**2 / (a**2 * s**2 + sigma**2) * (x_t - b * y) if a > 0 else torch.zeros_like(x_t)
        return Estimate(x0, eps_of(process, x0, x_t, y, torch.tensor([t], dtype=torch.float64)))

    return denoise
