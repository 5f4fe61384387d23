"""What the channels of a dataset mean, and how a case is brought to the network's grid and range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from nndiff.words.errors import NndiffError
from nndiff.words.fields import Checked, above, at_least
from nndiff.words.kind import Kind
from nndiff.words.scheme import Scheme
from nndiff.words.volume import Spacing, Triple

TIED = "tied"  # a target scheme: the map of the source channel that it starts from
TARGET_SCHEMES = ("fixed", TIED)


@dataclass(frozen=True)
class Channel(Checked):
    name: str
    kind: Kind  # what the intensities mean
    normalization: Scheme
    background: float  # the value of nothing, in the file's units: what lies outside the crop


@dataclass(frozen=True)
class Crop(Checked):
    enabled: bool
    margin_mm: Annotated[float, at_least(0)]


@dataclass(frozen=True)
class Preparation(Checked):
    """All that turns a case into a training pair and back; equal for configurations that share their prepared cases."""

    task: str
    source_channels: tuple[Channel, ...]
    target_channels: tuple[Channel, ...]
    anchor: tuple[int, ...]  # for each target channel, the source channel it starts from; empty in generation
    crop: Crop
    spacing: Annotated[Spacing, above(0, " mm")]
    volume_shape: Triple | None  # generation: the one shape that all volumes take


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
