"""What several draws of a sampler say: is their spread as large as the error of their mean?

    spread² = mean over voxels of the variance over K draws, times (1 + 1/K)        error² = (mean of K draws - truth)²

The mean of K draws of the true posterior errs by its spread and by 1/K of it more, hence the factor. `scale` makes the
two equal on the cases of the choice; the ratio after this scale is measured on other cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from nndiff.imaging import store
from nndiff.metrics import image
from nndiff.metrics.ensemble import crps
from nndiff.sampling.inference import Drawn
from nndiff.sampling.scoring import bounds_of
from nndiff.tuning.measure import Bench
from nndiff.walk.sampler import SamplerPlan


@dataclass(frozen=True)
class _Case:
    """The figures of one case."""

    crps: float
    point_mae: float
    psnr: float
    mean_psnr: float
    spread: float  # squared
    error: float  # squared


def drawn(bench: Bench, sampler: SamplerPlan, point: SamplerPlan, cases: Sequence[str], others: Sequence[str]) -> Drawn:
    """Return the figures of the sampler's draws; `point` is the sampler whose answer is a point."""
    chosen = [_case(bench, sampler, point, case) for case in cases]
    reported = [_case(bench, sampler, point, case) for case in others] or chosen
    scale = _ratio([case.error for case in chosen], [case.spread for case in chosen])
    return Drawn(
        label=replace(sampler, samples=1).label(),
        sampler=replace(sampler, samples=1),
        draws=sampler.samples,
        crps=fmean(case.crps for case in reported),
        point_mae=fmean(case.point_mae for case in reported),
        psnr=fmean(case.psnr for case in reported),
        mean_psnr=fmean(case.mean_psnr for case in reported),
        spread_over_error=_ratio([case.spread for case in reported], [case.error for case in reported]),
        scale=scale,
        cases=len(reported),
    )


def _case(bench: Bench, sampler: SamplerPlan, point: SamplerPlan, case: str) -> _Case:
    arrays = store.open_case(bench.folder, case)
    source, truth = np.array(arrays["source"]), np.array(arrays["target"])
    mask = arrays["mask"].astype(bool) if "mask" in arrays else None
    draws = [bench.draw(sampler, case, source, k) for k in range(sampler.samples)]
    answer = bench.draw(point, case, source, 0)
    mean, k = np.mean(draws, axis=0), len(draws)
    inside = np.broadcast_to(True if mask is None else mask, truth.shape)
    limits = [bounds_of(channel, t) for channel, t in zip(bench.plan.target_channels, truth, strict=True)]
    channels = range(len(truth))
    return _Case(
        crps=fmean(crps([draw[c] for draw in draws], truth[c], mask) for c in channels),
        point_mae=fmean(image.mae(answer[c], truth[c], mask) for c in channels),
        psnr=fmean(image.psnr(draws[0][c], truth[c], limits[c], mask) for c in channels),
        mean_psnr=fmean(image.psnr(mean[c], truth[c], limits[c], mask) for c in channels),
        spread=float(np.var(draws, axis=0, ddof=1)[inside].mean()) * (1 + 1 / k),
        error=float(np.square(mean - truth)[inside].mean()),
    )


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the ratio of two rms values, from their squares per case."""
    return math.sqrt(fmean(above) / max(fmean(below), 1e-30))
