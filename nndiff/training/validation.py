"""Validation during training: the score by which the best checkpoint is chosen, on fixed cases with fixed noise.

    translation   score = PSNR + 20·SSIM of whole volumes, translated as in prediction; 0.01 of SSIM counts as 0.2 dB,
                  so that blur does not win
    generation    score = -loss at fixed times and noises

The baseline is the best score without a network: the source, its local mean or one constant; in generation, the loss of
the mean volume. A run that is no better than its baseline has not learned anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from nndiff.diffusion.prediction import eps_of
from nndiff.imaging import store
from nndiff.plans.channels import TIED
from nndiff.plans.plan import Plan
from nndiff.sampling.forced import decibels_gained
from nndiff.sampling.scoring import Figures, bounds_of, compare
from nndiff.sampling.translate import Arrangement, Model, arrangements, translate
from nndiff.training.batches import Batch
from nndiff.training.loop import Trainer
from nndiff.walk.rules import First
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.scheme import Scheme
from nndiff.words.seeds import seed_of
from nndiff.words.volume import FloatArray, Spacing, Triple

# The times at which a generation is scored, and the intervals for which they stand.
FIXED_TIMES = {"0-0.2": 0.1, "0.2-0.4": 0.3, "0.4-0.6": 0.5, "0.6-0.8": 0.7, "0.8-1": 0.9}
WITHOUT_SIGNAL = {"1": 1.0}  # reported beside them; not part of the score
LOOKED_INTO = 0.5  # the time at which a network is examined
VALIDATION = 6  # stream of random numbers


@dataclass(frozen=True)
class Scores:
    """The scores of one case; PSNR, SSIM and MAE in network units, None in generation."""

    case: str
    score: float
    baseline: float  # the best score without a network
    psnr: float | None = None
    ssim: float | None = None
    mae: float | None = None
    baseline_psnr: float | None = None
    losses: Mapping[str, float] = field(default_factory=dict)  # by interval of t, in generation
    mean_losses: Mapping[str, float] = field(default_factory=dict)  # those of the mean volume
    token_spread: float | None = None
    walk: float | None = None  # dB, of estimates on a walk (sampling/forced.py)
    dead: float | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """The volumes in the figure of the first case, [C, Z, Y, X] each."""

    source: FloatArray | None  # the channel that each target starts from
    estimate: FloatArray
    target: FloatArray
    spacing: Spacing
    same_units: bool  # whether the first channel of source and target have one scale


def without_network(
    source: FloatArray,
    level: FloatArray,
    kernel: Triple,
    bounds: Sequence[tuple[float, float]],
    beyond: Sequence[float],
) -> tuple[FloatArray, ...]:
    """Return the three results that need no network, [C, Z, Y, X] each.

    They are the source, its local mean (the output of a network that starts from it) and one constant per channel.
    Outside the volume each channel of the source is `beyond`.
    """
    low, high = (np.array(limits, dtype=np.float32)[:, None, None, None] for limits in zip(*bounds, strict=True))
    means = [uniform_filter(y, kernel, mode="constant", cval=v) for y, v in zip(source, beyond, strict=True)]
    return source, np.clip(np.stack(means), low, high), np.broadcast_to(level[:, None, None, None], source.shape)


def _same_units(plan: Plan) -> bool:
    """Return whether the first target and the source that it starts from are normalised by one map."""
    source, target = plan.source_channels[plan.anchor[0]], plan.target_channels[0]
    return target.normalization in (Scheme(TIED, {}), source.normalization)


@dataclass(frozen=True)
class Validation:
    """The validation of one configuration on fixed cases."""

    folder: Path  # of the prepared cases
    plan: Plan
    name: str
    cases: tuple[str, ...]
    training: tuple[str, ...]
    usable_bytes: int

    @cached_property
    def sampler(self) -> SamplerPlan:
        """Return a sampler of one step, from the planned start and starting step."""
        planned = self.plan.configurations[self.name].sampler
        layers = tuple(layer for layer in planned.layers if layer.sees_volume)
        return SamplerPlan(planned.start, replace(planned.times, steps=1), First(0.0), layers, caches=())

    def _opened(self, case: str) -> dict[str, npt.NDArray[Any]]:
        return store.open_case(self.folder, case, verify=False)  # the training began with that (job.py)

    def of(self, trainer: Trainer, number: int) -> tuple[Scores, Example | None]:
        """Return the scores of case `number`, and an example in translation.

        The trainer's network must hold the averaged weights.
        """
        trainer.recorder.release()
        trainer.network.eval()
        arrays = self._opened(self.cases[number])
        try:
            if self.plan.task == "generation":
                return self._of_generation(trainer, number, np.array(arrays["target"])), None
            return self._of_translation(trainer, number, {name: np.array(a) for name, a in arrays.items()})
        finally:
            trainer.network.train()

    # ------------------------------------------------------------ translation

    def _of_translation(self, trainer: Trainer, number: int, case: dict[str, FloatArray]) -> tuple[Scores, Example]:
        plan, network = self.plan, (trainer.network,)
        model = Model(
            configuration=trainer.configuration,
            anchor=plan.anchor,
            bounds=plan.target_range,
            networks=network,
            formulation=trainer.formulation,
            device=trainer.device,
        )
        shape: Triple = case["target"].shape[1:]
        generator = torch.Generator().manual_seed(seed_of(VALIDATION, trainer.run.seed, number))
        layouts: list[Arrangement] = arrangements(model, shape, self.usable_bytes)
        estimate = translate(model, torch.from_numpy(case["source"]), shape, self.sampler, generator, layouts).numpy()
        bounds = [bounds_of(channel, t) for channel, t in zip(plan.target_channels, case["target"], strict=True)]
        mask = None if "mask" not in case else case["mask"].astype(bool)
        own = compare(estimate, case["target"], bounds, mask)
        source = case["source"][list(self.plan.anchor)]
        if number not in self._plain:
            spec = trainer.configuration.network
            kernel = spec.local_mean_kernel(trainer.configuration.puzzle_factor)
            beyond = [spec.beyond(channel) for channel in plan.anchor]
            answers = without_network(source, self._level, kernel, plan.target_range, beyond)
            self._plain[number] = [compare(array, case["target"], bounds, mask) for array in answers]
        plain = self._plain[number]
        scores = Scores(
            case=self.cases[number],
            score=own.score(),
            baseline=max(figures.score() for figures in plain),
            psnr=own.psnr,
            ssim=own.ssim,
            mae=own.mae,
            baseline_psnr=max(figures.psnr for figures in plain),
            walk=decibels_gained(model, case, seed_of(VALIDATION, trainer.run.seed, number), self.sampler, layouts[0]),
        )
        return scores, Example(
            source=source,
            estimate=estimate,
            target=case["target"],
            spacing=trainer.configuration.spacing,
            same_units=_same_units(plan),
        )

    @cached_property
    def _plain(self) -> dict[int, list[Figures]]:
        """Return the figures without a network by case; they are the same in every epoch."""
        return {}

    @cached_property
    def _level(self) -> FloatArray:
        """Return the mean of at most 20 training targets, one number per channel."""
        means = [self._opened(case)["target"].mean(axis=(1, 2, 3)) for case in self.training[:20]]
        return np.asarray(np.mean(means, axis=0), dtype=np.float32)

    # ------------------------------------------------------------ generation

    def _of_generation(self, trainer: Trainer, number: int, target: FloatArray) -> Scores:
        batch = Batch([number], None, torch.from_numpy(target)[None], None, None).to(trainer.device)
        objective = trainer.objective(-1)
        generator = torch.Generator().manual_seed(seed_of(VALIDATION, trainer.run.seed, number))
        losses, plain = dict[str, float](), dict[str, float]()
        mean = _Mean(trainer, self._mean)
        with torch.no_grad():
            for name, moment in (FIXED_TIMES | WITHOUT_SIGNAL).items():
                t = torch.full((1,), moment, dtype=torch.float64)
                eps = torch.randn(batch.target.shape, generator=generator).to(trainer.device)
                losses[name] = float(trainer.loss_at(trainer.network, objective, batch, t, eps))
                plain[name] = float(trainer.loss_at(mean, objective, batch, t, eps))
                if moment == LOOKED_INTO:
                    x_t = trainer.formulation.process.sample(batch.target, None, t, eps)
                    signs = trainer.configuration.network.signs(trainer.network, x_t, t.to(x_t))
        own, without = (-float(np.mean([row[name] for name in FIXED_TIMES])) for row in (losses, plain))
        return Scores(self.cases[number], own, without, losses=losses, mean_losses=plain, **signs)

    @cached_property
    def _mean(self) -> Tensor:
        """Return the mean training volume; in generation all volumes have one shape."""
        total = np.zeros(self._opened(self.training[0])["target"].shape)
        for case in self.training:
            total += self._opened(case)["target"]
        return torch.from_numpy((total / len(self.training)).astype(np.float32))[None]


class _Mean(torch.nn.Module):
    """A network that always predicts the mean volume, in the form of the configuration's prediction."""

    def __init__(self, trainer: Trainer, mean: Tensor):
        super().__init__()
        self.formulation, self.mean = trainer.formulation, mean.to(trainer.device)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        process, prediction = self.formulation.process, self.formulation.prediction
        eps = eps_of(process, self.mean, x_t, None, t)
        wanted: Tensor = prediction.target(process, self.mean, None, eps, t)
        return wanted
