"""The channels of a dataset, and the preparation that brings a case to the grid and value range of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from nndiff.words.errors import NndiffError
from nndiff.words.fields import Checked, above, at_least
from nndiff.words.kind import Kind
from nndiff.words.scheme import Scheme
from nndiff.words.volume import Spacing, Triple

TIED = "tied"  # a target scheme: the same normalisation as the source channel that the target starts from
TARGET_SCHEMES = ("fixed", TIED)


@dataclass(frozen=True)
class Channel(Checked):
    """One source or target channel, with its modality and its normalisation."""

    name: str
    kind: Kind  # modality, which defines the meaning of the intensities
    normalization: Scheme
    background: float  # the value of empty space, in the units of the file; it fills the volume outside the crop


@dataclass(frozen=True)
class Crop(Checked):
    """Whether and with which margin volumes are cropped."""

    enabled: bool
    margin_mm: Annotated[float, at_least(0)]


@dataclass(frozen=True)
class Preparation(Checked):
    """The settings that turn a case into a training pair, and a prediction back into a volume on the case's own grid.

    Configurations with equal preparations share their preprocessed cases.
    """

    task: str
    source_channels: tuple[Channel, ...]
    target_channels: tuple[Channel, ...]
    anchor: tuple[int, ...]  # per target channel, the source channel that it starts from; empty in generation
    crop: Crop
    spacing: Annotated[Spacing, above(0, " mm")]
    volume_shape: Triple | None  # generation: the shape of all volumes; translation: None


def demand_channels(sources: Sequence[Channel], targets: Sequence[Channel], anchor: Sequence[int]) -> None:
    """Refuse targets without an anchor among the sources, and target normalisations that depend on the target."""
    if len(anchor) != (len(targets) if sources else 0) or not all(0 <= s < len(sources) for s in anchor):
        names = ", ".join(f"{i} {channel.name}" for i, channel in enumerate(sources)) or "none"
        raise NndiffError(
            "'anchor' must name one source channel for each target channel.",
            expected=f"a number of these sources: {names}",
            found=list(anchor),
        )
    for channel in targets:
        if channel.normalization.name not in TARGET_SCHEMES:
            raise NndiffError(
                f"Target channel {channel.name} cannot be normalised by '{channel.normalization.name}'.",
                expected=" or ".join(TARGET_SCHEMES),
                remedy="choose one of these; the others depend on the target, which is unknown in prediction",
            )
