"""One sampler on some held-out cases: figures and seconds, as prediction would run it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch

from nndiff.imaging import store
from nndiff.plans.plan import Plan, ReusePlan, SamplerPlan
from nndiff.resources.machine import free_memory
from nndiff.resources.memory import prediction_cost, reuse_cost, usable_now
from nndiff.sampling.inference import Row
from nndiff.sampling.reuse import Kept, deepest
from nndiff.sampling.scoring import Figures, bounds_of, compare
from nndiff.sampling.translate import Model, arrangements, draw_seed, translate
from nndiff.tuning.candidates import label


@dataclass(frozen=True)
class Measured:
    sampler: SamplerPlan
    figures: dict[str, Figures]  # case → what came out
    seconds: dict[str, float]

    @property
    def cost(self) -> float:
        """Seconds a volume."""
        return median(self.seconds.values())

    def scores(self, texture: float) -> dict[str, float]:
        return {case: figures.score(texture) for case, figures in self.figures.items()}

    def row(self, texture: float) -> Row:
        every = list(self.figures.values())
        return Row(
            label=label(self.sampler),
            sampler=self.sampler,
            score=fmean(self.scores(texture).values()),
            psnr=fmean(f.psnr for f in every),
            ssim=fmean(f.ssim for f in every),
            mae=fmean(f.mae for f in every),
            hf=fmean(f.hf for f in every),
            seconds=self.cost,
            cases=len(every),
        )


@dataclass(frozen=True)
class Bench:
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
            figures[case] = compare(estimate, target, bounds, mask, texture=True)
        return Measured(sampler, figures, seconds)

    def changes(self, sampler: SamplerPlan, case: str, depth: int) -> list[float]:
        """How the feature of that depth changes from step to step of a whole walk."""
        seen: list[Kept] = []
        whole = SamplerPlan(
            sampler.start, sampler.start_step, sampler.steps, sampler.eta, sampler.order, 1, ReusePlan(1, depth)
        )
        self._draw(whole, case, np.array(store.open_case(self.folder, case)["source"]), 0, seen)
        return seen[0].changes

    def work(self, sampler: SamplerPlan) -> float:
        """What a volume costs, in evaluations of the whole network."""
        full = sampler.reuse.full_steps(sampler.steps)
        extra = 1 if sampler.start == "draft" else 0
        shallow = sampler.steps - full
        once = full + extra + (shallow * self.share(sampler.reuse.depth) if shallow else 0)
        return sampler.samples * sampler.shifts * once

    def share(self, depth: int) -> float:
        """A shallow step's work over a whole one's, in FLOPs."""
        return self._shares[depth - 1]

    @cached_property
    def _shares(self) -> list[float]:
        planned = self.model.configuration
        network, precision, device = planned.network, planned.precision, self.model.device.type
        whole = prediction_cost(network, planned.puzzle_factor, planned.patch_size, precision, device).flops
        depths = range(1, deepest(network) + 1)
        return [
            reuse_cost(network, planned.puzzle_factor, planned.patch_size, precision, depth, device)[0].flops / whole
            for depth in depths
        ]

    def estimate(self, sampler: SamplerPlan, case: str, source: np.ndarray) -> np.ndarray:
        """The mean of the sampler's draws, [C, Z, Y, X] in network units."""
        draws = [self._draw(sampler, case, source, k) for k in range(sampler.samples)]
        return np.asarray(np.mean(draws, axis=0, dtype=np.float32))

    def _draw(
        self, sampler: SamplerPlan, case: str, source: np.ndarray, draw: int, seen: list[Kept] | None = None
    ) -> np.ndarray:
        shape = source.shape[1:]
        usable = usable_now(free_memory(self.model.device.type), self.model.device.type)
        layouts = arrangements(self.model, shape, usable, sampler=sampler)
        generator = torch.Generator().manual_seed(draw_seed(self.seed, case, draw))
        on_kept = None if seen is None else seen.append
        estimate = translate(self.model, torch.from_numpy(source), shape, sampler, generator, layouts, on_kept=on_kept)
        return estimate.numpy()
