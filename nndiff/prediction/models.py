"""Loading of a trained model, from its folder or from an archive: its folds, which must belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nndiff import archive
from nndiff.checkpoint import BEST, Seen
from nndiff.folds import Fold, chosen, demand_one_model, read
from nndiff.plans.channels import Preparation
from nndiff.plans.plan import Plan
from nndiff.sampling import dial
from nndiff.sampling.dial import Stop
from nndiff.sampling.inference import Drawn
from nndiff.sampling.translate import Model, build_model
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.paths import is_archive


@dataclass(frozen=True)
class Trained:
    """A trained model, with all that prediction needs from training."""

    plan: Plan
    configuration: str
    model: Model
    sampler: SamplerPlan  # that of the first tuned fold, else the planned one
    dial: tuple[Stop, ...]  # from the mean to the texture: measured by tuning, else planned; empty if it has none
    drawn: Drawn | None  # what tuning measured of several draws
    seen: tuple[Seen, ...]
    sources: tuple[dict[str, str], ...]  # per fold, for the record: fold, checkpoint, step, steps, weights
    oddities: tuple[str, ...] = ()  # what a user should know about the folds

    def spread_scale(self, sampler: SamplerPlan) -> float:
        """Return the measured factor that makes the spread of this sampler's draws as large as their error, else 1."""
        if self.drawn is None or self.drawn.sampler != replace(sampler, samples=1):
            return 1.0
        return self.drawn.scale

    @property
    def preparation(self) -> Preparation:
        return self.plan.preparation(self.configuration)

    def folds_in_words(self) -> str:
        """Return which folds are averaged, and how far each was trained."""
        at = ["{step} of {steps}".format(**source) for source in self.sources]
        if len({source["steps"] for source in self.sources}) == 1:
            at = [source["step"] for source in self.sources[:-1]] + at[-1:]
        folds, steps = (", ".join(words) for words in ([source["fold"] for source in self.sources], at))
        return f"Fold {folds}, step {steps}" if len(at) == 1 else f"Averaging folds {folds}, steps {steps}"

    def demand_weights(self, expected: Mapping[str, str]) -> None:
        """Refuse folds whose weights are not the expected ones; a fold of which none are expected may have any."""
        for source in self.sources:
            fold = source["fold"]
            wanted = expected.get(fold, source["weights"])
            if wanted != source["weights"]:
                raise NndiffError(
                    f"The checkpoint of fold {fold} has changed since the configurations were compared.",
                    expected=f"weights {wanted}",
                    found=f"weights {source['weights']}",
                    where=source["checkpoint"],
                    remedy=f"run nndiff_find_best_configuration again, or pass -c {self.configuration} instead",
                )


def load(
    folder: Path,
    wanted: Sequence[str] | None,
    name: str,
    device: torch.device,
    configuration: str | None,
    allow_unfinished: bool = False,
) -> Trained:
    """Return the model in `folder`, which contains fold_0 … or is one of them, or in an archive.

    `wanted` are folds; if it is None, every fold that has the checkpoint and whose training has ended is used.
    """
    if is_archive(folder):
        loaded, oddities = _archived(folder, wanted, name)
    else:
        paths, oddities = chosen(folder, wanted, name, allow_unfinished)
        loaded = [read(path) for path in paths]
    demand_one_model(loaded, configuration)
    first = loaded[0]
    tuned = next((each.tuned for each in loaded if each.tuned is not None), None)
    return Trained(
        plan=first.plan,
        configuration=first.configuration,
        model=build_model(first.plan, first.configuration, [each.weights for each in loaded], device),
        sampler=first.planned.sampler if tuned is None else tuned.sampler,
        dial=dial.planned(first.planned) if tuned is None or not tuned.dial else tuned.dial,
        drawn=None if tuned is None else tuned.drawn,
        seen=first.seen,
        sources=tuple(
            {
                "fold": each.name,
                "checkpoint": str(each.path),
                "step": str(each.step),
                "steps": str(each.steps),
                "weights": each.digest,
            }
            for each in loaded
        ),
        oddities=tuple(oddities),
    )


def _archived(path: Path, wanted: Sequence[str] | None, name: str) -> tuple[list[Fold], list[str]]:
    """Return the folds of an archive, and what is to be said about them."""
    if name != BEST:
        raise NndiffError(
            "A model that was handed on has one checkpoint per fold.",
            expected=BEST,
            found=name,
            where=path,
            remedy="leave out -chk",
        )
    with archive.opened(path) as parts:
        found = [archive.read_fold(parts, fold) for fold in archive.choose(parts, wanted)]
    words = [f"the training of fold_{fold.name} had not ended: {left} steps were left" for fold, left in found if left]
    return [fold for fold, _ in found], words
