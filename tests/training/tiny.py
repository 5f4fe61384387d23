"""A tiny dataset for tests of training, planned and prepared in milliseconds without raw files."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nndiff.checkpoint import Checkpoint, Run
from nndiff.families import NetworkSpec
from nndiff.families.unet import UNetSpec
from nndiff.imaging import store
from nndiff.planning import planner
from nndiff.plans.plan import Configuration, Plan, digest, save
from nndiff.resources.memory import Cost
from nndiff.training.batches import Batch
from nndiff.training.loop import Trainer
from nndiff.training.ranks import Ranks
from nndiff.training.request import Request
from nndiff.words.budget import Budget
from nndiff.words.volume import FloatArray, Triple
from tests.conftest import make_phantom
from tests.planning.fingerprints import fingerprint
from tests.walks import denoising

NAME = "Dataset001_Tiny"
SHAPE = (8, 8, 8)
BUDGET = Budget("cpu", "any", 8 * 10**9, "test", False, 2)
CPU = torch.device("cpu")
QUICK: dict[str, Any] = {
    "patch_size": SHAPE,
    "batch_size": 2,
    "training_steps": 6,
    "warmup_steps": 2,
    "ema_half_life": 3,
    "learning_rate": 2e-3,
}


def tiny_plan(
    names: Sequence[str] = ("bridge",),
    sources: Sequence[str] = ("PET",),
    targets: Sequence[str] = ("PET",),
    network: Mapping[str, Any] | None = None,
    prediction: str | None = None,
    **words: Any,
) -> Plan:
    """Planned as ever, then made small; `words` are fields of every configuration.

    A named prediction is trained by denoising; otherwise prediction and objective are as planned.
    """
    found = fingerprint(NAME, SHAPE, (2.0, 2.0, 2.0), tuple(sources), tuple(targets))
    by_hand = {key: value for name in names if prediction for key, value in denoising(name, prediction).items()}
    plan = planner.plan(found, BUDGET, names, by_hand, predict=lambda *_: Cost(10**6, 10**9))
    configurations = {
        name: replace(planned, **{"network": _narrow(planned.network, network or {}), **QUICK, **words})
        for name, planned in plan.configurations.items()
    }
    return replace(plan, configurations=configurations)


def _narrow(network: NetworkSpec, small: Mapping[str, Any]) -> NetworkSpec:
    least: dict[str, Any] = {"width": 4, "blocks": 1} if isinstance(network, UNetSpec) else {"width": 12, "depth": 1}
    return replace(network, **{**least, **small})


def arrays(seed: int, plan: Plan, shape: Triple = SHAPE, mask: bool = False) -> dict[str, Any]:
    """Normalised source (noisier) and target, a channel each as planned."""
    rng = np.random.default_rng(seed)
    truth = make_phantom(seed, shape) / 5

    def channels(count: int, grain: float) -> FloatArray:
        return np.stack([truth + grain * rng.standard_normal(shape) for _ in range(count)]).astype(np.float32)

    case: dict[str, Any] = {"target": channels(len(plan.target_channels), 0.0)}
    if plan.source_channels:
        case["source"] = channels(len(plan.source_channels), 0.1)
    if mask:
        case["mask"] = truth > 0.1
    return case


def prepare(
    root: Path,
    plan: Plan,
    cases: int = 5,
    shapes: Sequence[Triple] = (SHAPE,),
    masked: Sequence[int] = (),
    patients: Mapping[int, str] | None = None,
) -> Path:
    """preprocessed/Dataset001_Tiny with case_0, case_1, …, as preprocessing would leave it."""
    folder = root / "preprocessed" / NAME
    names = tuple(channel.name for channel in plan.source_channels), tuple(c.name for c in plan.target_channels)
    save(folder / "fingerprint.json", fingerprint(NAME, SHAPE, (2.0, 2.0, 2.0), *names))
    save(folder / "plan.json", plan)
    for name in plan.configurations:
        for i in range(cases):
            record = {"group": (patients or {}).get(i, f"case_{i}"), "preparation": digest(plan.preparation(name))}
            case = arrays(i, plan, shapes[i % len(shapes)], i in masked)
            store.write_case(folder / name, f"case_{i}", case, record)
    return folder


def request(root: Path, plan: Plan, name: str = "bridge", **words: Any) -> Request:
    defaults: dict[str, Any] = {"fold": "0", "device": CPU, "seen": (), "workers": 0}
    folders = {"prepared": root / "preprocessed" / NAME, "results": root / "results" / NAME}
    return Request(plan, name, **{**defaults, **folders, **words})


def run_of(configuration: Configuration, **words: Any) -> Run:
    """A run over case_0 … case_3 with validation on case_4."""
    settled: dict[str, Any] = {
        "fold": "0",
        "seed": 0,
        "training": tuple(f"case_{i}" for i in range(4)),
        "validation": ("case_4",),
        "held_out": True,
        "training_steps": configuration.training_steps,
        "epoch_steps": 1,
        "warmup_steps": configuration.warmup_steps,
        "ema_half_life": configuration.ema_half_life,
        "samples_a_step": configuration.batch_size * configuration.accumulate,
    }
    return Run(**{**settled, **words})


def trainer_of(plan: Plan, name: str = "bridge", **words: Any) -> Trainer:
    return Trainer(plan, name, run_of(plan.configurations[name], **words), CPU, Ranks())


def state_of(trainer: Trainer, plan: Plan, /, **words: Any) -> Checkpoint:
    """What a checkpoint holds of a trainer; copied, since training goes on in place."""
    found = Checkpoint(
        plan=plan,
        configuration="bridge",
        run=trainer.run,
        seen=(),
        step=trainer.step,
        weights=trainer.weights,
        ema=trainer.ema.values,
        optimizer=trainer.optimizer.state_dict(),
        objectives=dict(trainer.objectives.state_dict()),
    )
    return replace(copy.deepcopy(found), **words)


def batch_of(plan: Plan, numbers: Sequence[int], mask: Any = None, inside: Any = None) -> Batch:
    """Sample n is the phantom of seed n."""
    cases = [arrays(number, plan) for number in numbers]
    stacked = {key: torch.from_numpy(np.stack([case[key] for case in cases])) for key in cases[0]}
    return Batch(list(numbers), stacked.get("source"), stacked["target"], mask, inside)
