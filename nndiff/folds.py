"""The folds of a trained model: which checkpoints of its folder predict, and whether they belong together.

    paths, oddities = chosen(folder, …)      one checkpoint per fold whose training has ended
    fold            = read(path)             what prediction needs of one of them

Prediction averages the folds, `nndiff.handover` passes them on as one file, and `nndiff.archive` reads them from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nndiff import checkpoint
from nndiff.assemble import build_network
from nndiff.checkpoint import LATEST, Checkpoint, Seen
from nndiff.plans.plan import Configuration, Plan, digest
from nndiff.sampling import inference
from nndiff.sampling.inference import Inference, digest_of
from nndiff.words.errors import NndiffError
from nndiff.words.paths import demand_model

FOLD = "fold_"


@dataclass(frozen=True, eq=False)
class Fold:
    """What prediction needs of one trained fold."""

    name: str  # 0 … or all
    plan: Plan
    configuration: str
    step: int  # after which these weights were stored
    steps: int  # of the whole training
    seen: tuple[Seen, ...]
    weights: Mapping[str, Tensor]  # the averaged ones
    tuned: Inference | None
    digest: str  # of these weights
    path: Path  # of the checkpoint, or of the part of an archive

    @property
    def planned(self) -> Configuration:
        return self.plan.configurations[self.configuration]


def read(path: Path) -> Fold:
    """Return what a checkpoint and the tuning result beside it say."""
    return of(checkpoint.load(path), path)


def of(saved: Checkpoint, path: Path) -> Fold:
    """Return what prediction needs of the checkpoint that was read from `path`."""
    digest = digest_of(saved.ema)
    return Fold(
        name=saved.run.fold,
        plan=saved.plan,
        configuration=saved.configuration,
        step=saved.step,
        steps=saved.run.training_steps,
        seen=saved.seen,
        weights=saved.ema,
        tuned=inference.load(path.parent, path.name, saved.planned.sampler, digest),
        digest=digest,
        path=path,
    )


# ---------------------------------------------------------------- which


def chosen(
    folder: Path, folds: Sequence[str] | None, name: str, allow_unfinished: bool
) -> tuple[list[Path], list[str]]:
    """Return the checkpoints that predict, and what is to be said about the others.

    `folder` contains fold_0 … or is one of them. If `folds` is None, every fold that has the checkpoint and whose
    training has ended is used.
    """
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


# ---------------------------------------------------------------- whether they are one model


def demand_one_model(folds: Sequence[Fold], configuration: str | None = None) -> None:
    """Refuse folds that cannot be averaged, and weights that do not fit the network of their plan."""
    for each in folds:
        _demand_like(folds[0], each, configuration)
    network = shapes_of(folds[0].planned, folds[0].path)
    for each in folds:
        checkpoint.demand_fitting(network, each.weights, each.path)


def shapes_of(planned: Configuration, where: Path) -> torch.nn.Module:
    """Return the network without storage; refuse a plan that describes none."""
    try:
        with torch.device("meta"):
            return build_network(planned.network, planned.puzzle_factor)
    except NndiffError as error:
        raise error.at(where) from None
    except Exception as error:  # absurd sizes can raise any exception
        raise NndiffError(
            "The network that the plan describes cannot be built.",
            found=f"{type(error).__name__}: {str(error)[:80]}",
            where=where,
            remedy="use the version of nndiff that wrote it, or a copy that is not damaged",
        ) from error


def _demand_like(first: Fold, other: Fold, configuration: str | None) -> None:
    if configuration is not None and other.configuration != configuration:
        raise NndiffError(
            "The checkpoint belongs to another configuration.",
            expected=configuration,
            found=other.configuration,
            where=other.path,
            remedy=f"pass -c {other.configuration}",
        )
    if digest(_shared(first)) != digest(_shared(other)):
        raise NndiffError(
            "The folds were trained with different plans, so they cannot be averaged.",
            where=other.path,
            remedy="use each fold separately (-f), or train the folds again with one plan",
        )


def _shared(fold: Fold) -> list[Any]:
    """Return what folds that are averaged have in common: the data, the network and the meaning of its output."""
    planned = fold.planned
    formulation = [planned.process, planned.prediction, planned.source_distance]
    formulation += [planned.open_part, planned.open_curve, planned.grain]
    data = [fold.plan.preparation(fold.configuration), fold.plan.target_range]
    return [*data, planned.network, planned.puzzle_factor, *formulation]
