"""The contents of plan.json: every decision for a dataset, with its reason. Every triple is (z, y, x).

A plan is decoded strictly (`strict_json`), and encoding it again gives the same bytes. A plan of an older version is
migrated when it is read (`migrate.py`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from nndiff.families import NetworkSpec
from nndiff.plans.channels import Channel, Crop, Preparation, demand_channels
from nndiff.plans.migrate import VERSION, migrated
from nndiff.walk.sampler import SamplerPlan
from nndiff.words import strict_json
from nndiff.words.budget import Budget
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.fields import Checked, Rule, above, at_least, one_of
from nndiff.words.files import read_json, write_json
from nndiff.words.fingerprint import Curve
from nndiff.words.scheme import Scheme
from nndiff.words.verdict import Alternative
from nndiff.words.volume import Spacing, Triple

T = TypeVar("T")

VOXELS, SAMPLES, TRAINING_STEPS = 10**5, 10**5, 10**9  # beyond these a number is a mistake: per axis, at once, per run
DATASET_WIDE = ("task", "file_ending", "source_channels", "target_channels", "anchor", "crop", "target_range")
DENOISING = Scheme("denoising", {})
RISING = Rule(lambda value: all(low < high for low, high in value), "pairs of a lower and a higher number")


@dataclass(frozen=True)
class Stage(Checked):
    """A stage of the training: the part of the network that is trained, the loss, the duration and the objective."""

    trains: str  # part of the network: all, or the prefix of the names of its weights
    loss: Scheme
    share: Annotated[float, above(0)]  # share of the training steps
    objective: Scheme = DENOISING
    # Factor of the learning rate.
    rate: Annotated[float, above(0)] = field(default=1.0, metadata={strict_json.LEFT_OUT: True})


@dataclass(frozen=True)
class Predicted:
    """The predicted cost of a planned step on the device, without context and workspace."""

    training_bytes: int
    prediction_bytes: int
    training_flops: int


@dataclass(frozen=True)
class Workload:
    """The work of one step: a network and the part of the volume that it sees."""

    network: NetworkSpec
    puzzle_factor: Triple
    patch_size: Triple
    batch_size: int
    precision: str
    device: str  # cuda | cpu | mps


@dataclass(frozen=True)
class Lesson:
    """What a training step teaches: process and prediction, and the stages with their losses and objectives."""

    process: Scheme
    prediction: str
    source_distance: float
    open_part: float
    stages: tuple[Stage, ...]
    open_curve: tuple[Curve, ...] = ()
    grain: float = 0.0


def _rise(curves: tuple[Curve, ...]) -> bool:
    levels = [[level for level, _ in curve] for curve in curves]
    return all(own and own == sorted(set(own)) for own in levels) and all(s > 0 for curve in curves for _, s in curve)


OPEN_CURVES = Rule(_rise, "per target channel, pairs of an intensity, from the lowest up, and of a share above 0")


@dataclass(frozen=True)
class Configuration(Checked):
    """The planned model of one method: network, training and sampler, for one dataset and device."""

    budget: Budget
    spacing: Annotated[Spacing, above(0, " mm")]
    volume_shape: Annotated[
        Triple, at_least(1, VOXELS)
    ]  # the median case, cropped and resampled; generation: of every volume
    puzzle_factor: Annotated[Triple, at_least(1, 1000)]
    patch_size: Annotated[Triple, at_least(1, VOXELS)]
    batch_size: Annotated[int, at_least(1, SAMPLES)]
    accumulate: Annotated[int, at_least(1, SAMPLES)]  # batches whose gradients are summed per training step
    network: NetworkSpec
    precision: Annotated[str, one_of("bf16", "fp32")]
    process: Scheme
    prediction: str  # x0 | eps | v | residual | x0_skip | both | fused
    source_distance: Annotated[float, above(0)]  # rms between anchor and target, normalised; the scale of x0_skip
    open_part: Annotated[float, at_least(0)]  # rms of what the source leaves open, normalised; 0 if there is no source
    stages: Annotated[tuple[Stage, ...], Rule(bool, "at least one stage")]
    augmentation: tuple[Scheme, ...]
    learning_rate: Annotated[float, Rule(lambda value: 0 < value < 1, "between 0 and 1")]
    warmup_steps: Annotated[int, at_least(0, TRAINING_STEPS)]
    training_steps: Annotated[int, at_least(1, TRAINING_STEPS)]
    ema_half_life: Annotated[int, at_least(1, TRAINING_STEPS)]  # in steps
    sampler: SamplerPlan  # used unless tuning chose another one
    predicted: Predicted
    # per target channel, what is open over open_part, by the local mean of its source; empty: the same everywhere
    open_curve: Annotated[tuple[Curve, ...], OPEN_CURVES] = ()
    grain: Annotated[float, at_least(0)] = 0.0  # rms of the target's finest texture, normalised; 0: not known

    def workload(self, device: str | None = None) -> Workload:
        """Return the work of a step, on the planned device unless another is given."""
        return Workload(
            network=self.network,
            puzzle_factor=self.puzzle_factor,
            patch_size=self.patch_size,
            batch_size=self.batch_size,
            precision=self.precision,
            device=device or self.budget.device,
        )

    @property
    def lesson(self) -> Lesson:
        return Lesson(
            process=self.process,
            prediction=self.prediction,
            source_distance=self.source_distance,
            open_part=self.open_part,
            stages=self.stages,
            open_curve=self.open_curve,
            grain=self.grain,
        )


@dataclass(frozen=True)
class Decision:
    """One decision of the plan, with its reason."""

    configuration: str  # "" for the whole dataset
    name: str
    value: Any
    reason: str
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Plan(Checked):
    """A plan: the settings of the whole dataset, its configurations, and the record of all decisions."""

    version: int
    dataset: str
    task: str
    file_ending: str
    source_channels: tuple[Channel, ...]
    target_channels: tuple[Channel, ...]
    anchor: tuple[int, ...]
    crop: Crop
    target_range: Annotated[tuple[tuple[float, float], ...], RISING]  # normalised; estimates are clamped to it
    configurations: dict[str, Configuration]
    overrides: dict[str, Any]  # the values given with --set
    decisions: tuple[Decision, ...]
    seals: dict[str, str]  # digest of each part as the planner wrote it; reveals edits by hand
    versions: dict[str, str] = field(default_factory=dict)  # of the software that made it

    def __post_init__(self) -> None:
        super().__post_init__()
        demand_channels(self.source_channels, self.target_channels, self.anchor)

    def demand_configuration(self, name: str) -> None:
        if name not in self.configurations:
            raise NndiffError(f"The plan has no configuration '{name}'.", remedy=nearest(name, self.configurations))

    def preparation(self, name: str) -> Preparation:
        configuration = self.configurations[name]
        return Preparation(
            task=self.task,
            source_channels=self.source_channels,
            target_channels=self.target_channels,
            anchor=self.anchor,
            crop=self.crop,
            spacing=configuration.spacing,
            volume_shape=configuration.volume_shape if self.task == "generation" else None,
        )


def digest(value: Any) -> str:
    """Return a short hash of any dataclass that can be stored, or of any JSON value."""
    text = json.dumps(strict_json.encode(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def decode_plan(data: Any, where: str = "") -> Plan:
    """Return the plan that JSON of the current or an older version describes."""
    return strict_json.decode(Plan, migrated(data), where)


def load_plan(path: Path, remedy: str | None = None) -> Plan:
    data = read_json(path, remedy)
    try:
        return decode_plan(data)
    except NndiffError as error:
        raise error.at(path) from None


def load(cls: type[T], path: Path, remedy: str | None = None) -> T:
    """Return the dataclass stored in a JSON file; plans are read by `load_plan`."""
    data = read_json(path, remedy)
    try:
        return strict_json.decode(cls, data)
    except NndiffError as error:
        raise error.at(path) from None


def save(path: Path, word: Any) -> None:
    write_json(path, strict_json.encode(word))


__all__ = [
    "DATASET_WIDE",
    "DENOISING",
    "VERSION",
    "Configuration",
    "Decision",
    "Lesson",
    "Plan",
    "Predicted",
    "Stage",
    "Workload",
    "decode_plan",
    "digest",
    "load",
    "load_plan",
    "save",
]
