"""The dial from the mean to the texture: the samplers of one model between its two ends.

0    fidelity   the mean: one step, with the best PSNR
1    texture    the walk whose texture is nearest to the truth's: on average 3 dB below the mean, as a true draw is
     between    the samplers that no other one beats in both PSNR and texture, placed by their loss of PSNR

After tuning, the dial holds measured samplers. Before it, a model whose prediction weighs noise (`fused`) has a planned
dial: one step, a walk that stops where the noise equals the open part, and a whole walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from nndiff.assemble import build_objective, build_process, formulation_of
from nndiff.diffusion.prediction import PREDICTIONS
from nndiff.plans.plan import Configuration
from nndiff.walk.caches import Deep
from nndiff.walk.part import STEPS
from nndiff.walk.sampler import SamplerPlan
from nndiff.walk.starts import Source
from nndiff.walk.times import Ratio
from nndiff.words.errors import NndiffError
from nndiff.words.fields import Checked, within

LAST_SHARE = 1 - 1e-9  # of the times of training, whose first or last ones are those nearest to the target
WALK_STEPS, SHORT_STEPS = 6, 4  # evaluations of the planned walks


@dataclass(frozen=True)
class Stop(Checked):
    """A sampler on the dial."""

    position: Annotated[float, within(0, 1)]
    sampler: SamplerPlan
    psnr: float | None = None  # measured by tuning
    texture_db: float | None = None

    def label(self) -> str:
        if self.psnr is None:
            return f"{self.sampler.label()} (planned, not measured)"
        texture = "" if self.texture_db is None else f", texture {self.texture_db:.2f} dB"
        return f"{self.sampler.label()} (PSNR {self.psnr:.2f} dB{texture})"


@dataclass(frozen=True)
class Point:
    """The measurement of one sampler: what the dial is made of."""

    sampler: SamplerPlan
    psnr: float
    texture_db: float


def measured(points: Sequence[Point]) -> tuple[Stop, ...]:
    """Return the samplers that no other one beats in both PSNR and texture, by their position on the dial."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.psnr, point.texture_db)):
        if not front or point.texture_db < front[-1].texture_db:
            front.append(point)
    if not front:
        return ()
    lost = front[0].psnr - front[-1].psnr
    return tuple(
        Stop(
            position=(front[0].psnr - point.psnr) / lost if lost > 0 else 0.0,
            sampler=point.sampler,
            psnr=point.psnr,
            texture_db=point.texture_db,
        )
        for point in front
    )


def planned(configuration: Configuration) -> tuple[Stop, ...]:
    """Return the dial before tuning; empty for a model that was not trained for both ends."""
    walk, times = configuration.sampler, configuration.sampler.times
    trained = PREDICTIONS[configuration.prediction].tells_error and configuration.open_part > 0
    trained = trained and not _trained_for_the_mean(configuration)
    if not trained or not isinstance(times, Ratio) or build_process(configuration.process).scale == 0:
        return ()
    single = replace(walk, start=Source(), times=replace(times, first=STEPS, steps=1), caches=(Deep(),))
    half = replace(times, steps=SHORT_STEPS, low=configuration.open_part)
    whole = replace(times, steps=max(WALK_STEPS, times.steps))
    return (
        Stop(0.0, single),
        Stop(0.5, replace(walk, times=half)),
        Stop(1.0, replace(walk, times=whole)),
    )


def at(stops: Sequence[Stop], position: float, configuration: Configuration) -> Stop:
    """Return the sampler that is nearest to the position; refuse a position that the model cannot serve."""
    if not 0 <= position <= 1:
        raise NndiffError("The dial is out of range.", expected="0 (the mean) to 1 (the texture)", found=position)
    if position > 0 and len(stops) == 1:
        raise NndiffError(
            "Tuning has found no sampler of this model whose texture is nearer to the truth's than that of the mean.",
            expected="a tuning with the time for more samplers, of a model that was trained for long enough",
            found=f"only {stops[0].label()}",
            remedy="run nndiff_tune with a longer --time_budget; if it finds none, train longer; or choose the number "
            "of steps yourself (--steps 6 in place of --objective and --dial)",
        )
    if position > 0 and not stops:
        raise NndiffError(
            "This model has no dial from the mean to the texture.",
            expected="a model that was trained with the prediction fused, or one that nndiff_tune has measured",
            found=f"prediction {configuration.prediction}, {_noise_of(configuration)}, not tuned",
            remedy="run nndiff_tune, which measures what this model can do, choose the steps with --steps, or plan "
            "with the current version and train again",
        )
    if not stops:
        return Stop(0.0, configuration.sampler)
    return min(stops, key=lambda stop: abs(stop.position - position))


def _trained_for_the_mean(configuration: Configuration) -> bool:
    """Return whether every training sample was at t = 1, so that the network knows nothing of a walk."""
    if not PREDICTIONS[configuration.prediction].tells_error:
        return False
    formulation = formulation_of(configuration)
    objectives = [build_objective(stage, formulation) for stage in configuration.stages]
    return all(objective.time_of(share) >= 1 for objective in objectives for share in (0.0, 0.5, LAST_SHARE))


def _noise_of(configuration: Configuration) -> str:
    if configuration.process.options.get("gamma") == 0:
        return "no noise (gamma 0)"
    if _trained_for_the_mean(configuration):
        return "trained for the mean alone (at_source 1)"
    return f"process {configuration.process.name}"
