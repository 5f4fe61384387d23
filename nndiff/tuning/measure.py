"""The measurement of one sampler on held-out cases: metrics and seconds, run as in prediction."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch

from nndiff.imaging import store
from nndiff.plans.plan import Plan
from nndiff.resources.machine import free_memory
from nndiff.resources.memory import shallow_share, usable_now
from nndiff.sampling.inference import Row
from nndiff.sampling.scoring import Figures, TrueTexture, bounds_of, compare, mean_of
from nndiff.sampling.translate import Model, arrangements, translate
from nndiff.tuning.candidates import without_caches
from nndiff.walk.caches import Deep, Kept
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.seeds import draw_seed


@dataclass(frozen=True)
class Measured:
    """The measurement of one sampler."""

    sampler: SamplerPlan
    figures: dict[str, Figures]  # case → metrics
    seconds: dict[str, float]  # case → seconds
    work: float  # per volume, in evaluations of the whole network

    @property
    def cost(self) -> float:
        """Return the median of the seconds per volume."""
        return median(self.seconds.values())

    def scores(self, texture: float) -> dict[str, float]:
        return {case: figures.score(texture) for case, figures in self.figures.items()}

    def row(self, texture: float) -> Row:
        every = list(self.figures.values())
        return Row(
            label=self.sampler.label(),
            sampler=self.sampler,
            score=fmean(self.scores(texture).values()),
            psnr=fmean(f.psnr for f in every),
            ssim=fmean(f.ssim for f in every),
            mae=fmean(f.mae for f in every),
            hf=fmean(f.hf for f in every),
            cases=len(every),
            evaluations=self.work,
            seconds=self.cost,
            texture_db=_defined(f.texture_db for f in every),
            hf_body=_defined(f.hf_body for f in every),
            hf_air=_defined(f.hf_air for f in every),
            correlation_bias=_defined(f.correlation_bias for f in every),
        )


@dataclass(frozen=True)
class Bench:
    """A model with its prepared cases, on which samplers are measured."""

    model: Model
    plan: Plan
    folder: Path  # of the prepared cases
    seed: int = 0

    def measure(self, sampler: SamplerPlan, cases: Sequence[str]) -> Measured:
        figures, seconds = {}, {}
        for case in cases:
            arrays = store.open_case(self.folder, case)
            source, target = np.array(arrays["source"]), np.array(arrays["target"])
            mask = arrays["mask"].astype(bool) if "mask" in arrays else None
            clock = time.perf_counter()
            estimate = self.estimate(sampler, case, source)
            seconds[case] = time.perf_counter() - clock
            bounds = [bounds_of(channel, t) for channel, t in zip(self.plan.target_channels, target, strict=True)]
            if case not in self._textures:
                self._textures[case] = [TrueTexture.of(channel, mask) for channel in target]
            figures[case] = compare(estimate, target, bounds, mask, texture=True, known=self._textures[case])
        return Measured(sampler, figures, seconds, self.work(sampler))

    @cached_property
    def _textures(self) -> dict[str, list[TrueTexture]]:
        """Return what is known of each target that was measured: every sampler is measured on the same cases."""
        return {}

    def changes(self, sampler: SamplerPlan, case: str, depth: int) -> list[float]:
        """Return the relative change of the feature at `depth` from each step to the next, with every step full."""
        seen: list[Kept] = []
        whole = without_caches(replace(sampler, samples=1)).with_part(Deep(1, depth))
        self.draw(whole, case, np.array(store.open_case(self.folder, case)["source"]), 0, seen)
        return seen[0].changes

    def work(self, sampler: SamplerPlan) -> float:
        """Return the cost per volume in evaluations of the whole network."""
        return sampler.work(self.share)

    def share(self, depth: int) -> float:
        """Return the FLOPs of a shallow step as a share of those of a full step."""
        return self._shares[depth - 1]

    @cached_property
    def _shares(self) -> list[float]:
        work = self.model.configuration.workload(self.model.device.type)
        return [shallow_share(work, depth) for depth in range(1, work.network.reuse_depths + 1)]

    def estimate(self, sampler: SamplerPlan, case: str, source: np.ndarray) -> np.ndarray:
        """Return the mean of the sampler's draws, [C, Z, Y, X] in network units."""
        draws = [self.draw(sampler, case, source, k) for k in range(sampler.samples)]
        return np.asarray(np.mean(draws, axis=0, dtype=np.float32))

    def draw(
        self, sampler: SamplerPlan, case: str, source: np.ndarray, draw: int, seen: list[Kept] | None = None
    ) -> np.ndarray:
        shape = source.shape[1:]
        usable = usable_now(free_memory(self.model.device.type), self.model.device.type)
        layouts = arrangements(self.model, shape, usable, sampler)
        generator = torch.Generator().manual_seed(draw_seed(self.seed, case, draw))
        on_kept = None if seen is None else seen.append
        estimate = translate(self.model, torch.from_numpy(source), shape, sampler, generator, layouts, on_kept=on_kept)
        return estimate.numpy()


def _defined(values: Iterable[float]) -> float | None:
    """Return the mean over the cases that have a value; None, which JSON can hold, if no case has one."""
    mean = mean_of(list(values))
    return None if math.isnan(mean) else mean
