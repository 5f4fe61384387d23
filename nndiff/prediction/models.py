"""Loading of a trained model: the checkpoints in its folder, one per fold, which must belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nndiff import checkpoint
from nndiff.assemble import build_network
from nndiff.checkpoint import LATEST, Checkpoint, Seen
from nndiff.plans.channels import Preparation
from nndiff.plans.plan import Plan, digest
from nndiff.sampling import dial, inference
from nndiff.sampling.dial import Stop
from nndiff.sampling.inference import Drawn, digest_of
from nndiff.sampling.translate import Model, build_model
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.paths import demand_model

FOLD = "fold_"


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
            fold = Path(source["checkpoint"]).parent.name.removeprefix(FOLD)
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
    folds: Sequence[str] | None,
    name: str,
    device: torch.device,
    configuration: str | None,
    allow_unfinished: bool = False,
) -> Trained:
    """Return the model in `folder`, which contains fold_0 … or is one of them.

    If `folds` is None, every fold that has the checkpoint and whose training has ended is used.
    """
    paths, oddities = finished(folder, folds, name, allow_unfinished)
    loaded = [checkpoint.load(path) for path in paths]
    first = loaded[0]
    for path, other in zip(paths, loaded, strict=True):
        _demand_one_model(first, other, path, configuration)
    for path, each in zip(paths, loaded, strict=True):
        with torch.device("meta"):
            shapes = build_network(first.planned.network, first.planned.puzzle_factor)
        checkpoint.demand_fitting(shapes, each.ema, path)
    model = build_model(first.plan, first.configuration, [each.ema for each in loaded], device)
    sources = tuple(
        {
            "fold": each.run.fold,
            "checkpoint": str(path),
            "step": str(each.step),
            "steps": str(each.run.training_steps),
            "weights": digest_of(each.ema),
        }
        for each, path in zip(loaded, paths, strict=True)
    )
    tuned = [
        inference.load(path.parent, name, first.planned.sampler, source["weights"])
        for path, source in zip(paths, sources, strict=True)
    ]
    measured = next((found for found in tuned if found is not None), None)
    return Trained(
        plan=first.plan,
        configuration=first.configuration,
        model=model,
        sampler=first.planned.sampler if measured is None else measured.sampler,
        dial=dial.planned(first.planned) if measured is None or not measured.dial else measured.dial,
        drawn=None if measured is None else measured.drawn,
        seen=first.seen,
        sources=sources,
        oddities=tuple(oddities),
    )


def finished(
    folder: Path, folds: Sequence[str] | None, name: str, allow_unfinished: bool = False
) -> tuple[list[Path], list[str]]:
    """Return the checkpoints of the folds that may be used, and what is to be said about the others."""
    return _finished(_checkpoints(folder, folds, name), folds is not None, allow_unfinished)


def _checkpoints(folder: Path, folds: Sequence[str] | None, name: str) -> list[Path]:
    demand_model(folder)
    if folds is None and (folder / name).exists():
        return [folder / name]
    wanted = [f"{FOLD}{fold}" for fold in folds] if folds else _folds_in(folder, name)
    for fold in wanted:
        if not (folder / fold / name).exists():
            there = sorted(path.name for path in (folder / fold).glob("*.pt"))
            raise NndiffError(
                f"{fold} contains no {name}.",
                expected=f"one of {', '.join(others)}" if (others := _folds_in(folder, name)) else None,
                found=", ".join(there) or "no checkpoint",
                where=folder / fold,
                remedy=f"pass -chk {there[0]}" if there else "train this fold first, or choose another fold with -f",
            )
    if not wanted:
        others = sorted({path.name for pattern in (f"{FOLD}*/*.pt", "*.pt") for path in folder.glob(pattern)})
        raise NndiffError(
            f"No fold of the model contains {name}.",
            found=", ".join(others) or "no trained fold",
            where=folder,
            remedy=f"pass -chk {others[0]}" if others else "train it first, or correct -m, -d or -c",
        )
    return [folder / fold / name for fold in wanted]


def _finished(paths: list[Path], asked: bool, allow_unfinished: bool) -> tuple[list[Path], list[str]]:
    """Return the checkpoints whose training has ended, and what is to be said about the others.

    A fold that was asked for, or the only one, is never left out: it is used if that is allowed, else refused.
    """
    left, unknown = dict[Path, int](), list[str]()
    for path in paths:
        try:
            left[path] = checkpoint.steps_left(path.parent)
        except NndiffError:  # the checkpoint that predicts may be sound
            left[path] = 0
            unknown.append(f"whether the training of {path.parent.name} has ended is not known: {LATEST} is damaged")
    unfinished = [path for path in paths if left[path] > 0]
    words = [f"the training of {path.parent.name} has not ended: {left[path]} steps are left" for path in unfinished]
    if not unfinished or allow_unfinished:
        return paths, words + unknown
    if asked or len(unfinished) == len(paths):
        raise NndiffError(
            "The training of a fold has not ended.",
            found="; ".join(words),
            where=unfinished[0].parent,
            remedy="go on with it (nndiff_train … --c), or pass --allow_unfinished",
        )
    words = [f"{line}, so it is left out" for line in words]
    return [path for path in paths if path not in unfinished], words + unknown


def _folds_in(folder: Path, name: str) -> list[str]:
    """Return the numbered folds that have the checkpoint, or fold_all if there are none."""
    there = sorted(path.parent.name for path in folder.glob(f"{FOLD}*/{name}"))
    numbered = [fold for fold in there if fold.removeprefix(FOLD).isdecimal()]
    return numbered or there


def _demand_one_model(first: Checkpoint, other: Checkpoint, path: Path, configuration: str | None) -> None:
    if configuration is not None and other.configuration != configuration:
        raise NndiffError(
            "The checkpoint belongs to another configuration.",
            expected=configuration,
            found=other.configuration,
            where=path,
            remedy=f"pass -c {other.configuration}",
        )
    if digest(_shared(first)) != digest(_shared(other)):
        raise NndiffError(
            "The folds were trained with different plans, so they cannot be averaged.",
            where=path,
            remedy="predict with each fold separately (-f), or train the folds again with one plan",
        )


def _shared(saved: Checkpoint) -> list[Any]:
    """Return what folds that are averaged have in common: the data, the network and the meaning of its output."""
    planned = saved.planned
    formulation = [planned.process, planned.prediction, planned.source_distance]
    formulation += [planned.open_part, planned.open_curve, planned.grain]
    data = [saved.plan.preparation(saved.configuration), saved.plan.target_range]
    return [*data, planned.network, planned.puzzle_factor, *formulation]
