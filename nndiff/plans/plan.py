"""The words that stages hand each other as JSON: Fingerprint (the data), Budget (the machine), Plan (what, and why).

Every triple is (z, y, x). Every word decodes strictly (`strict_json`) and encodes back to the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nndiff.words import strict_json
from nndiff.words.checks import demand_all_valid
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, write_json
from nndiff.words.kind import Kind
from nndiff.words.scheme import Scheme
from nndiff.words.volume import Spacing, Triple

T = TypeVar("T")


# ---------------------------------------------------------------- the data


@dataclass(frozen=True)
class ChannelStatistics:
    """Intensities of one channel, in the file's units. Percentiles, mean and std over the foreground."""

    minimum: float
    maximum: float
    peak: float  # P99.99 of the whole volume: PET's own scale
    mean: float
    std: float
    percentiles: dict[str, float]  # "0.5" … "99.5"
    foreground: float  # share of the volume


@dataclass(frozen=True)
class Link:
    """What ties one source channel to one target channel, over the foreground of both."""

    correlation: float
    source_mean: float
    source_std: float
    target_mean: float
    target_std: float
    noise_share: float  # of the difference's power; the rest is structure
    rmse: float  # in normalised units, each side under its kind's own map
    matched_step: int  # of 1000: where the diffusion noise is NOISE_MULTIPLE times that rmse


@dataclass(frozen=True)
class CaseFingerprint:
    name: str
    group: str
    shape: Triple
    spacing: Spacing
    cropped_shape: Triple
    layout: str  # the file's own axes, fastest first, e.g. LPS
    source: tuple[ChannelStatistics, ...]
    target: tuple[ChannelStatistics, ...]
    links: tuple[tuple[Link, ...], ...]  # [target channel][source channel]


@dataclass(frozen=True)
class Fingerprint:
    dataset: str
    task: str  # translation | generation
    channel_names: tuple[str, ...]
    target_names: tuple[str, ...]
    file_ending: str
    pooled_source: tuple[ChannelStatistics, ...]
    pooled_target: tuple[ChannelStatistics, ...]
    cases: tuple[CaseFingerprint, ...]


# ---------------------------------------------------------------- the machine


@dataclass(frozen=True)
class Budget:
    """What a plan may use. `memory_bytes` is the device's total, context and workspace included."""

    device: str  # cuda | cpu | mps
    device_name: str
    memory_bytes: int
    memory_from: str  # where that number comes from, in words
    bf16: bool
    cores: int
    ram_bytes: int
    disk_bytes: int


# ---------------------------------------------------------------- the decisions


def demand_channels(sources: Sequence[Channel], targets: Sequence[Channel], anchor: Sequence[int]) -> None:
    """An anchor for each target among the sources, and target maps that need no target."""
    if len(anchor) != (len(targets) if sources else 0) or not all(0 <= s < len(sources) for s in anchor):
        names = ", ".join(f"{i} {channel.name}" for i, channel in enumerate(sources)) or "none"
        raise NndiffError(
            "'anchor' names a source that does not exist.",
            expected=f"one of the sources ({names}) for each target channel",
            found=list(anchor),
        )
    for channel in targets:
        if channel.normalization.name not in TARGET_SCHEMES:
            raise NndiffError(
                f"Target channel {channel.name} cannot be normalised by '{channel.normalization.name}'.",
                expected=" or ".join(TARGET_SCHEMES),
                remedy="a target's map must not look at the target: prediction has none",
            )


@dataclass(frozen=True)
class Channel:
    name: str
    kind: Kind  # what the intensities mean; by its name in JSON
    normalization: Scheme
    background: float  # the value of nothing, in the file's units: what lies outside the crop

    def __post_init__(self) -> None:
        demand_all_valid(self)


@dataclass(frozen=True)
class Crop:
    enabled: bool
    margin_mm: float

    def __post_init__(self) -> None:
        demand_all_valid(self)


@dataclass(frozen=True)
class NetworkSpec:
    """The network between puzzle and unpuzzle. One entry a level in multipliers, kernels and strides.

    A prdit has one level: its kernel is a token's patch, its stride the block that the token answers for.
    """

    name: str  # unet | prdit
    in_channels: int  # image channels of x_t and condition together, before the puzzle
    out_channels: int  # image channels of the output, all answers together
    width: int
    multipliers: tuple[int, ...]
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]  # strides[0] is (1, 1, 1)
    blocks: int  # residual blocks a level, on each side; a prdit's transformer blocks
    head_width: int  # of the light full-resolution head after the puzzle; 0 = none
    recompute: str  # none | norms (a unet's) | blocks: what is computed twice to save memory
    mix: str = "none"  # none | haar: of the puzzle's channels, before the network and after it
    skip: tuple[int, ...] = ()  # for each output channel the input channel whose local mean it starts from; () = zeros
    answers: int = 1  # a target channel: 2 where both image and noise are predicted

    def __post_init__(self) -> None:
        demand_all_valid(self)

    @property
    def targets(self) -> int:
        return self.out_channels // self.answers


@dataclass(frozen=True)
class Stage:
    trains: str  # which part of the network: all, or the beginning of its weights' names
    loss: Scheme
    share: float  # of the training steps


@dataclass(frozen=True)
class ReusePlan:
    """At which steps of a walk the whole network runs; between them its deepest features are kept (LIM).

    A threshold, where above 0, decides while walking; else the listed steps; else every `interval`-th from the first.
    """

    interval: int = 1  # 1: always
    depth: int = 1  # the decoder blocks that every step computes anew
    listed: tuple[int, ...] = ()  # counted from 0
    threshold: float = 0.0  # the kept feature's expected relative change that calls for a new one

    def __post_init__(self) -> None:
        demand_all_valid(self)

    @property
    def active(self) -> bool:
        return self.interval > 1 or bool(self.listed) or self.threshold > 0

    def is_full(self, step: int) -> bool:
        """As decided beforehand; a threshold decides while walking."""
        return step == 0 or (step in self.listed if self.listed else step % self.interval == 0)

    def full_steps(self, steps: int) -> int:
        return sum(map(self.is_full, range(steps)))


@dataclass(frozen=True)
class SamplerPlan:
    """How a volume is made by a trained network."""

    start: str  # source | noise | shortcut | draft
    start_step: int  # of 1000
    steps: int
    eta: float
    order: int
    samples: int = 1  # volumes drawn and averaged
    reuse: ReusePlan = ReusePlan()
    hot: int = 0  # steps taken at once before noise is put back (1: none is); 0 = the process's own step
    shifts: int = 1  # places of the puzzle's grid, whose answers are averaged

    def __post_init__(self) -> None:
        demand_all_valid(self)
        if self.order == 2 and self.eta > 0:
            raise NndiffError("A walk of second order is deterministic.", expected="eta 0", found=f"eta {self.eta:g}")
        if self.hot and (self.order == 2 or self.eta > 0):
            raise NndiffError(
                "A hot walk has a step rule of its own.",
                expected="order 1 and eta 0",
                found=f"hot {self.hot}, order {self.order}, eta {self.eta:g}",
                remedy="--hot 0, or neither --eta nor --order",
            )


@dataclass(frozen=True)
class Predicted:
    """What the planned step was predicted to cost, on the device, before context and workspace."""

    training_bytes: int
    prediction_bytes: int
    training_flops: int
    prediction_flops: int


@dataclass(frozen=True)
class Configuration:
    budget: Budget
    spacing: Spacing
    volume_shape: Triple  # of the median case, cropped and resampled
    puzzle_factor: Triple
    patch_size: Triple
    batch_size: int
    accumulate: int  # batches summed before a step
    network: NetworkSpec
    precision: str  # bf16 | fp32
    process: Scheme
    prediction: str  # x0 | eps | v | residual | x0_skip | both
    source_distance: float  # rms between anchor and target, normalised: the scale of x0_skip
    stages: tuple[Stage, ...]
    augmentation: tuple[Scheme, ...]
    learning_rate: float
    warmup_steps: int
    training_steps: int
    ema_half_life: int  # in steps
    start: str  # source | noise | shortcut | draft
    start_step: int  # of 1000; 1000 = from the very beginning
    steps: int  # network evaluations a volume, reuse steps counted
    eta: float  # share of fresh noise in each step: 0 deterministic, 1 ancestral
    order: int  # of the solver
    reuse_interval: int  # 1 = no reuse
    reuse_depth: int
    tile_overlap: float
    predicted: Predicted
    hot: int = 0  # steps taken at once before noise is put back; 0 = not
    shifts: int = 1  # places of the puzzle's grid, whose answers are averaged

    def __post_init__(self) -> None:
        demand_all_valid(self)

    @property
    def sampler(self) -> SamplerPlan:
        reuse = ReusePlan(self.reuse_interval, self.reuse_depth)
        words = self.start, self.start_step, self.steps, self.eta, self.order
        return SamplerPlan(*words, reuse=reuse, hot=self.hot, shifts=self.shifts)


@dataclass(frozen=True)
class Alternative:
    value: Any
    note: str  # what it would cost or why it was passed over


@dataclass(frozen=True)
class Decision:
    configuration: str  # "" = the whole dataset
    name: str
    value: Any
    reason: str
    alternatives: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """All that turns a case into a training pair and back; equal for configurations that share their prepared cases."""

    task: str
    source_channels: tuple[Channel, ...]
    target_channels: tuple[Channel, ...]
    anchor: tuple[int, ...]  # for each target channel, the source channel it starts from; empty in generation
    crop: Crop
    spacing: Spacing
    volume_shape: Triple | None  # generation: the one shape that all volumes take


@dataclass(frozen=True)
class Plan:
    version: int
    dataset: str
    task: str
    file_ending: str
    source_channels: tuple[Channel, ...]
    target_channels: tuple[Channel, ...]
    anchor: tuple[int, ...]
    crop: Crop
    target_range: tuple[tuple[float, float], ...]  # normalised, a target channel each; the sampler clamps to it
    configurations: dict[str, Configuration]
    overrides: dict[str, Any]  # what --set asked for
    decisions: tuple[Decision, ...]
    seals: dict[str, str]  # digest of each part as the planner left it: tells a plan edited by hand

    def __post_init__(self) -> None:
        demand_all_valid(self)
        demand_channels(self.source_channels, self.target_channels, self.anchor)

    def preparation(self, name: str) -> Preparation:
        configuration = self.configurations[name]
        shape = configuration.volume_shape if self.task == "generation" else None
        return Preparation(
            self.task, self.source_channels, self.target_channels, self.anchor, self.crop, configuration.spacing, shape
        )


PLAN_VERSION = 1
TIED = "tied"  # a target scheme: the map of the source channel that it starts from
TARGET_SCHEMES = ("fixed", TIED)
DATASET_WIDE = ("task", "file_ending", "source_channels", "target_channels", "anchor", "crop", "target_range")


def digest(value: Any) -> str:
    """A short fingerprint of any word or JSON value."""
    text = json.dumps(strict_json.encode(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(cls: type[T], path: Path, remedy: str | None = None) -> T:
    data = read_json(path, remedy)
    try:
        return strict_json.decode(cls, data)
    except NndiffError as error:
        raise NndiffError(
            error.what, expected=error.expected, found=error.found, where=path, remedy=error.remedy
        ) from None


def save(path: Path, word: Any) -> None:
    write_json(path, strict_json.encode(word))
