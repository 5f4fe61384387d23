"""The draws of a case: samples from the model, with their running mean and standard deviation.

    mean_k = mean_(k-1) + (x_k - mean_(k-1)) / k
    S_k    = S_(k-1) + (x_k - mean_(k-1)) (x_k - mean_k)          std² = S_K / (K - 1)          Welford 1962

The random numbers of each draw are derived from (seed, case, draw).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nndiff.prediction.inputs import InputCase
from nndiff.prediction.models import Trained
from nndiff.prediction.reading import Read
from nndiff.prediction.request import Request
from nndiff.resources.machine import free_memory
from nndiff.resources.memory import usable_now
from nndiff.sampling.translate import Arrangement, arrangements, expected_error, translate
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.seeds import draw_seed
from nndiff.words.volume import FloatArray


class Draws:
    """The running mean and standard deviation of draws."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: FloatArray = np.zeros(0, dtype=np.float32)
        self.squares: FloatArray = np.zeros(0, dtype=np.float32)
        self.kept: list[FloatArray] = []

    def add(self, draw: FloatArray, keep: bool) -> None:
        self.count += 1
        if keep:
            self.kept.append(draw)
        if self.count == 1:
            self.mean, self.squares = draw, np.zeros_like(draw)
            return
        before = draw - self.mean
        self.mean = (self.mean + before / self.count).astype(np.float32, copy=False)
        self.squares += before * (draw - self.mean)

    @property
    def spread(self) -> FloatArray:
        return np.sqrt(self.squares / max(1, self.count - 1)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Computed:
    """A case that has been computed and not yet written."""

    read: Read
    draws: Draws
    arrangement: Arrangement  # of the last draw
    seconds: float
    expected_error: FloatArray | None = None  # [C, Z, Y, X], of the answer in one step


@dataclass(frozen=True)
class Computation:
    """A function that computes the draws of a case, on one device."""

    request: Request
    trained: Trained
    sampler: SamplerPlan
    device: torch.device

    def __call__(self, case: InputCase, read: Read, on_progress: Callable[[float], object]) -> Computed:
        clock = time.perf_counter()
        prepared = read.prepared
        shape, model = prepared.grid.shape, self.trained.model
        source = None if prepared.source is None else torch.from_numpy(prepared.source)
        usable = usable_now(free_memory(self.device.type), self.device.type)
        options = arrangements(model, shape, usable, self.sampler)
        used = [options[0]]
        draws = Draws()
        for k in range(self.sampler.samples):
            generator = torch.Generator().manual_seed(draw_seed(self.request.seed, case.name, k))
            draw = translate(model, source, shape, self.sampler, generator, options, on_progress, used.append).numpy()
            draws.add(draw, keep=self.request.save_samples)
            options = options[options.index(used[-1]) :]  # later draws do not try an arrangement that has failed
        expected = None
        if self.request.save_expected_error and source is not None:
            expected = expected_error(model, source, shape, self.sampler, options[0]).numpy()
        return Computed(read, draws, used[-1], time.perf_counter() - clock, expected)
