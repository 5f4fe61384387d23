"""Checkpoints for tests, made without training: the plan of a tiny dataset, with random or zero weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from nndiff import checkpoint
from nndiff.assemble import build_network
from nndiff.checkpoint import BEST, Checkpoint, Run, Seen
from nndiff.data import fingerprint
from nndiff.planning import planner
from nndiff.plans.plan import Plan
from nndiff.resources.memory import Cost
from nndiff.words import dataset
from nndiff.words.budget import Budget
from nndiff.words.scheme import Scheme
from tests.conftest import make_phantom, make_raw_dataset, save_volume
from tests.walks import changed, denoising

BUDGET = Budget("cpu", "CPU", 8 * 10**9, "test", False, 2)
SMALL = {
    "bridge": {"width": 4, "blocks": 1},
    "ddpm": {"width": 4, "blocks": 1},
    "prdit": {"width": 12, "depth": 1},
}
OF_SAMPLER = ("start", "first", "steps", "eta", "order", "hot", "samples", "shifts", "overlap", "reuse")
WIDE = ((-50.0, 50.0),)  # a range that no estimate of these tests reaches


def cheap(spec, puzzle, patch, batch) -> Cost:
    """A closed form in place of the traced memory."""
    return Cost(10**6, 10**9)


@cache
def planned(
    configuration: str, sources: tuple[str, ...], targets: tuple[str, ...], ending: str, prediction: str | None
) -> Plan:
    """What nndiff_plan makes of two tiny cases."""
    with TemporaryDirectory() as folder:
        raw = make_raw_dataset(Path(folder), cases=2, sources=sources, targets=targets, ending=ending)
        found, _ = fingerprint.extract(dataset.read(raw), 0)
    by_hand = {f"configurations.{configuration}.network.{name}": value for name, value in SMALL[configuration].items()}
    if prediction:
        by_hand |= denoising(configuration, prediction)
    plan = planner.plan(found, BUDGET, [configuration], by_hand, predict=cheap)
    return replace(plan, target_range=WIDE * len(targets))


def plan_of(
    configuration: str = "bridge",
    sources: Sequence[str] = ("PET",),
    targets: Sequence[str] = ("PET",),
    ending: str = ".nii.gz",
    prediction: str | None = None,
    **changes: Any,
) -> Plan:
    """`changes` are fields of the configuration, or words of its sampler (tests/walks.py).

    A named prediction is trained by denoising; otherwise prediction and objective are as planned.
    """
    plan = planned(configuration, tuple(sources), tuple(targets), ending, prediction)
    of_sampler = {name: changes.pop(name) for name in OF_SAMPLER if name in changes}
    own = replace(plan.configurations[configuration], **changes)
    own = replace(own, sampler=changed(own.sampler, **of_sampler))
    return replace(plan, configurations={configuration: own})


def tied(plan: Plan) -> Plan:
    """Targets in their anchors' units, but for CT, which has its own."""
    targets = [
        channel if channel.kind.absolute else replace(channel, normalization=Scheme("tied", {}))
        for channel in plan.target_channels
    ]
    return replace(plan, target_channels=tuple(targets))


def save_trained(
    path: Path,
    plan: Plan,
    seed: int | None = 0,
    *,
    peaks: tuple[float, float] = (1.0, 10.0),
    step: int = 7,
    training: Sequence[str] = ("a",),
) -> Path:
    """A checkpoint at `path` (fold_K/checkpoint_best.pt); seed None leaves the weights as they begin: output zero."""
    (configuration,) = plan.configurations
    planned = plan.configurations[configuration]
    network = build_network(planned.network, planned.puzzle_factor)
    weights = network.state_dict()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        weights = {
            name: torch.randn(value.shape, generator=generator) / max(1, value[0].numel()) ** 0.5
            for name, value in weights.items()
        }
    run = Run(path.parent.name.removeprefix("fold_"), 0, tuple(training), ("b",), True, 10, 5, 1, 2, 2)
    seen = tuple(Seen(channel.name, peaks, (0.0, 0.0)) for channel in plan.source_channels)
    checkpoint.save(path, Checkpoint(plan, configuration, run, seen, step, weights, weights, {}))
    return path


def model_folder(root: Path, *, folds: Sequence[object] = (0,), seed: int | None = 0, **words: Any) -> Path:
    """results/Dataset001_Tiny/CONFIGURATION, a fold each with its own weights. `words` as in `plan_of`."""
    plan = plan_of(**words)
    (configuration,) = plan.configurations
    folder = root / "results" / plan.dataset / configuration
    for number, fold in enumerate(folds):
        save_trained(folder / f"fold_{fold}" / BEST, plan, None if seed is None else seed + number)
    return folder


def copying_model(
    root: Path, crop: bool = False, prediction: str = "residual", lowest: float = WIDE[0][0], **words: Any
) -> Path:
    """A model whose estimate is its anchor, in the anchor's units: x̂0 = y - 0, if it is not below `lowest`."""
    plan = tied(plan_of(prediction=prediction, **words))
    plan = replace(plan, target_range=tuple((lowest, high) for _, high in plan.target_range))
    ((name, planned),) = plan.configurations.items()
    planned = replace(planned, network=replace(planned.network, skip=()))
    plan = replace(plan, configurations={name: planned})
    save_trained(root / "copies" / "fold_0" / BEST, replace(plan, crop=replace(plan.crop, enabled=crop)), None)
    return root / "copies"


def scans(folder: Path, cases: int = 3, **words: Any) -> Path:
    """case_0, case_1, … of one noisy PET channel."""
    for case in range(cases):
        save_volume(folder / f"case_{case}_0000.nii.gz", make_phantom(case, noise=0.3), **words)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` but the records, which hold times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("predict")
    }
