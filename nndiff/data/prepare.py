"""Convert a case to the input of a network, and an estimate of the network back to the case's grid and units.

    prepared = prepare(source, target, mask, preparation)      crop → normalise → resample (→ one shape, in generation)
    volume   = prepared.undo(estimate)                         the source's grid, the target's units

Training has source and target, prediction only a source, generation only a target. If there is a source, the crop, the
maps and `undo` do not depend on the target: what is unknown at test time is not used in training either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nndiff.imaging.crop import body_box, crop, foreground, place
from nndiff.imaging.normalize import NORMALIZERS, Affine, Normalizer
from nndiff.imaging.resample import new_shape, resample, resample_mask
from nndiff.plans.channels import TIED, Channel, Preparation
from nndiff.words.errors import NndiffError
from nndiff.words.kind import Kind
from nndiff.words.scheme import Scheme
from nndiff.words.volume import Box, FloatArray, Grid, Layout, Mask, Triple, Volume

CROP_MARGIN_MM = 10.0  # around the body, for parts that the threshold misses


@dataclass(frozen=True)
class Undo:
    """Everything that converts an estimate back to the case's grid and units; stored as JSON with the prepared case."""

    original: Grid
    layout: Layout | None
    box: Box  # the part of the original grid that was kept
    resampled: Grid  # the box at the plan's spacing
    offset: Triple  # of the resampled box in the network's volume; (0, 0, 0) unless generation requires one shape
    maps: tuple[Affine, ...]  # one per target channel
    background: tuple[float, ...]

    def __call__(self, estimate: FloatArray) -> Volume:
        """Return an estimate in the target's units on the original grid, from [C, z, y, x] on the network's grid."""
        back = (-self.offset[0], -self.offset[1], -self.offset[2])
        nothing = _normalised(self.maps, self.background)
        fitted = place(estimate, back, self.resampled.shape, nothing)
        refined = resample(fitted, self.box.shape)
        values = np.stack([m.inverse(channel) for m, channel in zip(self.maps, refined, strict=True)])
        whole = place(values, self.box.start, self.original.shape, self.background)
        return Volume(whole, self.original, self.layout)

    def of_spread(self) -> Undo:
        """Return the undo of a standard deviation: the target's scale, no offset, and 0 outside the estimate."""
        maps = tuple(Affine(m.scale, 0.0) for m in self.maps)
        return replace(self, maps=maps, background=(0.0,) * len(maps))


@dataclass(frozen=True, eq=False)
class Prepared:
    source: FloatArray | None  # [C, z, y, x], normalised
    target: FloatArray | None  # [C', z, y, x], normalised
    mask: Mask | None  # [z, y, x]
    grid: Grid  # of all three arrays
    undo: Undo


def prepare(source: Volume | None, target: Volume | None, mask: Volume | None, preparation: Preparation) -> Prepared:
    """Return one case on the plan's grid and in its range. Translation needs a source, generation a target."""
    reference = source if preparation.source_channels else target
    assert reference is not None, "translation needs a source, generation a target"
    _demand_channels(source, preparation.source_channels, "source")
    _demand_channels(target, preparation.target_channels, "target")

    source_maps = _source_maps(source, preparation.source_channels)
    target_maps = _target_maps(source_maps, preparation)
    kinds = [channel.kind for channel in preparation.source_channels or preparation.target_channels]
    box = body(reference, kinds, preparation.crop.margin_mm) if preparation.crop.enabled else _whole(reference.grid)
    cut = reference.grid.cropped(box)
    resampled = cut.resampled(new_shape(cut, preparation.spacing))
    shape = preparation.volume_shape or resampled.shape
    offset = _centred(resampled.shape, shape)

    def shaped(volume: Volume | None, maps: Sequence[Affine], channels: Sequence[Channel]) -> FloatArray | None:
        if volume is None:
            return None
        normalised = np.stack([m.forward(channel) for m, channel in zip(maps, crop(volume.array, box), strict=True)])
        nothing = _normalised(maps, [channel.background for channel in channels])
        return place(resample(normalised, resampled.shape), offset, shape, nothing)

    background = tuple(channel.background for channel in preparation.target_channels)
    undo = Undo(
        original=reference.grid,
        layout=reference.layout,
        box=box,
        resampled=resampled,
        offset=offset,
        maps=target_maps,
        background=background,
    )
    return Prepared(
        source=shaped(source if preparation.source_channels else None, source_maps, preparation.source_channels),
        target=shaped(target, target_maps, preparation.target_channels),
        mask=_shaped_mask(mask, box, resampled.shape, offset, shape),
        grid=resampled.moved(tuple(-o for o in offset), shape),
        undo=undo,
    )


def empty(preparation: Preparation) -> Prepared:
    """Return the start of generation: no image, only the grid of all volumes and the undo to the file's units."""
    shape = preparation.volume_shape
    assert shape is not None, "only generation begins with nothing"
    spacing = preparation.spacing
    origin = tuple(-(n - 1) / 2 * s for n, s in zip(shape, spacing, strict=True))[::-1]  # centred on (0, 0, 0) mm
    grid = Grid(shape, spacing, (origin[0], origin[1], origin[2]))
    background = tuple(channel.background for channel in preparation.target_channels)
    undo = Undo(
        original=grid,
        layout=None,
        box=_whole(grid),
        resampled=grid,
        offset=(0, 0, 0),
        maps=_target_maps((), preparation),
        background=background,
    )
    return Prepared(source=None, target=None, mask=None, grid=grid, undo=undo)


def body(volume: Volume, kinds: Sequence[Kind], margin_mm: float) -> Box:
    """Return the box around the body, with a margin; callers pass the source if there is one."""
    a, b, c = (round(margin_mm / spacing) for spacing in volume.spacing)
    return body_box(volume.array, kinds, (a, b, c))


def fit(scheme: Scheme, channel: FloatArray, kind: Kind) -> Affine:
    """Return the affine map of one channel [Z, Y, X] under a scheme of the plan."""
    made = normalizer(scheme)
    inside = foreground(channel, kind) if made.looks_inside else np.broadcast_to(np.bool_(True), channel.shape)
    return made.fit(channel, inside)


def normalizer(scheme: Scheme) -> Normalizer:
    """Return the normaliser of a scheme; refuse options that it does not have."""
    made: Normalizer = NORMALIZERS.make(scheme.name, scheme.options)
    return made


def _normalised(maps: Sequence[Affine], values: Sequence[float]) -> list[float]:
    return [(value - m.offset) / m.scale for m, value in zip(maps, values, strict=True)]


def _source_maps(source: Volume | None, channels: tuple[Channel, ...]) -> tuple[Affine, ...]:
    if source is None or not channels:
        return ()
    maps = []
    for channel, array in zip(channels, source.array, strict=True):
        try:
            maps.append(fit(channel.normalization, array, channel.kind))
        except NndiffError as error:
            raise error.at(None, prefix=f"Source channel {channel.name}: ", expected=None) from None
    return tuple(maps)


def _target_maps(source_maps: tuple[Affine, ...], preparation: Preparation) -> tuple[Affine, ...]:
    """Return the map of each target: fixed, or its anchor's. It never depends on the target, unknown in prediction."""
    nothing = np.zeros((1, 1, 1), dtype=np.float32)
    return tuple(
        source_maps[preparation.anchor[i]]
        if channel.normalization.name == TIED
        else fit(channel.normalization, nothing, channel.kind)
        for i, channel in enumerate(preparation.target_channels)
    )


def _demand_channels(volume: Volume | None, channels: tuple[Channel, ...], side: str) -> None:
    if volume is not None and volume.channels != len(channels):
        names = ", ".join(channel.name for channel in channels) or "none"
        raise NndiffError(
            f"The {side} has the wrong number of channels.",
            expected=f"{len(channels)} ({names})",
            found=volume.channels,
        )


def _shaped_mask(mask: Volume | None, box: Box, resampled: Triple, offset: Triple, shape: Triple) -> Mask | None:
    if mask is None:
        return None
    inside = resample_mask(crop(mask.array, box)[0] > 0.5, resampled)
    placed: Mask = place(inside[None].astype(np.float32), offset, shape, [0.0])[0] > 0.5
    return placed


def _whole(grid: Grid) -> Box:
    return Box((0, 0, 0), grid.shape)


def _centred(inner: Triple, outer: Triple) -> Triple:
    a, b, c = ((n - m) // 2 for m, n in zip(inner, outer, strict=True))
    return a, b, c
