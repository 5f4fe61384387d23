"""The teacher-forced table: how well the network estimates x0 from x_t, with x_t made from the truth.

For several ratios r = sigma/a, as multiples of the open part s:

    error      rms of x̂0 - x0                  expected   rms of the error that the network itself expects
    white      sqrt(mean of e²·r²/(e² + r²)), e the error expected at t = 1: what the same network would reach if the
               unexplained part were white noise; a network that knows the texture is better
    intensity  error over expected error in four equal parts of the truth's intensities, darkest first

A walk whose error at small r is above `white` grains. Where the expected error is too large, noise passes; where it is
too small, texture is erased. It is the first thing to look at when a walk blurs or grains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nndiff.diffusion.prediction import Fused
from nndiff.imaging import store
from nndiff.resources.machine import free_memory
from nndiff.resources.memory import usable_now
from nndiff.sampling.translate import arrangements, composed
from nndiff.tuning.measure import Bench
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.seeds import draw_seed
from nndiff.words.text_table import text_table
from nndiff.words.volume import Triple

RATIOS = (math.inf, 8.0, 3.0, 1.0, 0.3, 0.1)  # multiples of the open part
PARTS = 4  # of the intensities
HEADS = ("sigma/a over s", "error", "expected", "white", "error over expected, by intensity")


@dataclass(frozen=True)
class Forced:
    """The figures at one ratio; errors in network units."""

    ratio: float  # of r over the open part; infinite at t = 1
    error: float
    expected: float
    white: float
    by_intensity: tuple[float, ...]  # error over expected error


def forced(bench: Bench, sampler: SamplerPlan, cases: Sequence[str]) -> list[Forced]:
    """Return the table for a model with an expected error; empty for any other."""
    prediction = bench.model.formulation.prediction
    if not isinstance(prediction, Fused):
        return []
    found: dict[float, list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]] = {ratio: [] for ratio in RATIOS}
    for case in cases:
        arrays = store.open_case(bench.folder, case)
        prior = None
        for ratio in RATIOS:
            error, expected = _at(bench, prediction, sampler, case, arrays, ratio)
            prior = expected if prior is None else prior
            r = (ratio * prediction.open_part) ** 2
            white = prior if math.isinf(ratio) else prior * r / (prior + r)
            found[ratio].append((error, expected, white, np.array(arrays["target"]).ravel()))
    return [_summary(ratio, *map(np.concatenate, zip(*rows, strict=True))) for ratio, rows in found.items()]


def _at(
    bench: Bench, prediction: Fused, sampler: SamplerPlan, case: str, arrays: dict[str, np.ndarray], ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared error of each voxel and the expected one, flat."""
    model, process = bench.model, bench.model.formulation.process
    source, x0 = (torch.from_numpy(np.array(arrays[side]))[None] for side in ("source", "target"))
    y = source[:, list(model.anchor)]
    t = torch.tensor([1.0 if math.isinf(ratio) else process.time_of_ratio(ratio * prediction.open_part)]).double()
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(draw_seed(bench.seed, case, 0)))
    x_t = process.sample(x0, y, t, eps)
    usable = usable_now(free_memory(model.device.type), model.device.type)
    shape: Triple = (x0.shape[2], x0.shape[3], x0.shape[4])
    layout = arrangements(model, shape, usable, sampler)[0]
    shown, told = model.formulation.view(x_t, y, t)
    with torch.no_grad():
        output = composed(model, sampler, layout.tiling, ())(shown, told, source)
        weighed = prediction.weighed(process, output.cpu(), x_t, y, t)
    return (weighed.x0 - x0).square().numpy().ravel(), weighed.variance.numpy().ravel()


def _summary(ratio: float, error: np.ndarray, expected: np.ndarray, white: np.ndarray, truth: np.ndarray) -> Forced:
    edges = np.quantile(truth, np.linspace(0, 1, PARTS + 1)[1:-1])
    parts = [np.digitize(truth, edges) == part for part in range(PARTS)]
    shares = [math.sqrt(error[part].mean() / expected[part].mean()) for part in parts if part.any()]
    rms = [math.sqrt(float(values.mean())) for values in (error, expected, white)]
    return Forced(ratio, rms[0], rms[1], rms[2], tuple(shares))


def table(rows: Sequence[Forced]) -> str:
    cells = [
        (
            "one step" if math.isinf(row.ratio) else f"{row.ratio:g}",
            f"{row.error:.5f}",
            f"{row.expected:.5f}",
            f"{row.white:.5f}",
            " ".join(f"{share:.2f}" for share in row.by_intensity),
        )
        for row in rows
    ]
    return text_table([HEADS, *cells])
