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

from nndiff.diffusion.prediction import Fused
from nndiff.imaging import store
from nndiff.resources.machine import free_memory
from nndiff.resources.memory import usable_now
from nndiff.sampling.forced import squared_errors
from nndiff.sampling.translate import arrangements
from nndiff.tuning.measure import Bench
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.seeds import draw_seed
from nndiff.words.text_table import text_table

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
            error, expected = _at(bench, sampler, case, arrays, ratio)
            prior = expected if prior is None else prior
            r = (ratio * prediction.open_part) ** 2
            white = prior if math.isinf(ratio) else prior * r / (prior + r)
            found[ratio].append((error, expected, white, np.array(arrays["target"]).ravel()))
    return [_summary(ratio, *map(np.concatenate, zip(*rows, strict=True))) for ratio, rows in found.items()]


def _at(
    bench: Bench, sampler: SamplerPlan, case: str, arrays: dict[str, np.ndarray], ratio: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared error of each voxel and the expected one, flat."""
    model = bench.model
    usable = usable_now(free_memory(model.device.type), model.device.type)
    layout = arrangements(model, arrays["target"].shape[1:], usable, sampler)[0]
    read = {side: np.array(arrays[side]) for side in ("source", "target")}
    error, expected = squared_errors(model, read, ratio, draw_seed(bench.seed, case, 0), sampler, layout)
    return error.cpu().numpy().ravel(), expected.cpu().numpy().ravel()


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
