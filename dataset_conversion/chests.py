"""CTs of chests for generation: all on one grid, as published models have them.

    HU within ±1000 → voxels of SPACING mm (splines, nothing aliased) → the middle cube of SIZE, air where none is

1 mm and 256 as WDM-3D has it; 2 mm and 128 is the same field at PRDiT's size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.base import Gathered, Role, dataset_of, write
from dataset_conversion.making import Record, Step, grey, make
from nndiff.cli.command import Command, add_workers
from nndiff.errors import NndiffError
from nndiff.imaging import io
from nndiff.imaging.resample import new_shape, resample
from nndiff.pictures import slices
from nndiff.volume import Volume

LOW, HIGH = -1000.0, 1000.0  # HU
LEAST_INSIDE = 0.5  # of each side of the field: a shorter scan is no chest
CHEST = Role("targets", "CT", "")


@dataclass(frozen=True)
class Chest:
    case: str
    path: Path
    read: Callable[[Path], Volume]
    spacing: float
    size: int
    folder: Path  # the dataset's

    @property
    def name(self) -> str:
        return self.case

    @property
    def made(self) -> Sequence[Path]:
        return (self.folder / "targetsTr" / f"{self.case}_0000.nii.gz",)


def add_grid_flags(command: Command) -> None:
    command.flag("spacing", type=float, default=1.0, metavar="MM", help="of the voxels (1)")
    command.flag("size", type=int, default=256, metavar="N", help="voxels a side (256)")
    add_workers(command)


def convert(
    arguments: argparse.Namespace, gathered: Gathered, read: Callable[[Path], Volume], words: Mapping[str, str]
) -> None:
    """Every case of `gathered`, on one grid."""
    if not (arguments.spacing > 0 and arguments.size > 0):
        raise NndiffError("There is no such grid.", found=f"--spacing {arguments.spacing} --size {arguments.size}")
    folder = dataset_of(arguments)
    chests = [
        Chest(case, files[CHEST], read, arguments.spacing, arguments.size, folder)
        for case, files in gathered.cases.items()
    ]
    settings = {"spacing": arguments.spacing, "size": arguments.size}
    make(Step("chests", crop, settings, 3 * 10**9), chests, gathered, folder, arguments.np, arguments.overwrite)
    for chest in chests:
        if chest.case in gathered.cases:
            gathered.cases[chest.case][CHEST] = chest.made[0]
    write(folder, [CHEST], gathered, words, arguments.overwrite)


def crop(chest: Chest, picture: Path) -> Record:
    volume = chest.read(chest.path)
    if doubt := _doubt(volume, chest):
        return {"doubt": doubt}
    grid = volume.grid.resampled(new_shape(volume.grid, (chest.spacing,) * 3))
    array = np.clip(resample(np.clip(volume.array, LOW, HIGH), grid.shape), LOW, HIGH)[0]
    starts = [(n - chest.size) // 2 for n in grid.shape]  # below 0: so much air
    middle = np.full((chest.size,) * 3, LOW, dtype=np.float32)
    spans = [(max(0, start), min(n, start + chest.size)) for start, n in zip(starts, grid.shape, strict=True)]
    there = tuple(slice(a - start, b - start) for (a, b), start in zip(spans, starts, strict=True))
    middle[there] = array[tuple(slice(a, b) for a, b in spans)]
    a, b, c = starts
    placed = Volume(middle[None], grid.moved((a, b, c), (chest.size,) * 3))
    io.write(placed, chest.made[0], np.int16)
    picture.parent.mkdir(parents=True, exist_ok=True)
    slices(picture, [("", grey(middle))], None, chest.case, placed.grid.spacing)
    return {"air": round(float((middle <= LOW + 1).mean()), 4)}


def _doubt(volume: Volume, chest: Chest) -> str:
    low, high = float(volume.array.min()), float(volume.array.max())
    if low > -500 or high < 100:
        return f"values from {low:.0f} to {high:.0f}: is it a CT in HU?"
    short = min(volume.grid.extent_mm)
    field = chest.size * chest.spacing
    return "" if short >= LEAST_INSIDE * field else f"a scan of {short:.0f} mm, for a field of {field:.0f} mm"
