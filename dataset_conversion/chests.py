"""Convert chest CTs to one common grid for generation, as in published models.

    clip HU to ±1000 → resample to SPACING mm with anti-aliasing → crop the central cube of SIZE, pad with air

1 mm and 256 voxels are the grid of WDM-3D; 2 mm and 128 voxels cover the same field at PRDiT's size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from dataset_conversion.base import Gathered, Role, dataset_of, write
from dataset_conversion.making import Job, Record, Step, grey, make, no_hu
from nndiff.cli.command import Command, add_crew, crew
from nndiff.demo.scanner import FWHM
from nndiff.imaging import io
from nndiff.imaging.register import laid
from nndiff.pictures import slices
from nndiff.words.errors import NndiffError
from nndiff.words.volume import FloatArray, Grid, Volume

LOW, HIGH = -1000.0, 1000.0  # HU
LEAST_INSIDE = 0.5  # of each side of the field: a shorter scan does not cover a chest
CHEST = Role("targets", "CT", "")


@dataclass(frozen=True)
class Chest(Job):
    read: Callable[[Path], Volume]
    spacing: float
    size: int


def add_grid_flags(command: Command) -> None:
    command.flag("spacing", type=float, default=1.0, metavar="MM", help="voxel size (default: 1)")
    command.flag("size", type=int, default=256, metavar="N", help="voxels along each axis (default: 256)")
    add_crew(command)


def convert(
    arguments: argparse.Namespace, gathered: Gathered, read: Callable[[Path], Volume], words: Mapping[str, str]
) -> None:
    """Convert every case of `gathered` to one grid and write the dataset."""
    if not (0.1 <= arguments.spacing <= 50 and 8 <= arguments.size <= 2048):
        found = f"--spacing {arguments.spacing} --size {arguments.size}"
        raise NndiffError("The grid is out of range.", expected="--spacing 0.1 to 50, --size 8 to 2048", found=found)
    folder = dataset_of(arguments)
    chests = [
        Chest(
            case,
            (files[CHEST],),
            (folder / "targetsTr" / f"{case}_0000.nii.gz",),
            read,
            arguments.spacing,
            arguments.size,
        )
        for case, files in gathered.cases.items()
    ]
    settings = {"spacing": arguments.spacing, "size": arguments.size}
    needed = 2 * 10**9 + 12 * arguments.size**3
    make(Step("chests", crop, settings, needed), chests, gathered, folder, crew(arguments), arguments.overwrite)
    for chest in chests:
        if chest.case in gathered.cases:
            gathered.cases[chest.case][CHEST] = chest.made[0]
    write(folder, [CHEST], gathered, words, arguments.overwrite)


def crop(chest: Chest, picture: Path) -> Record:
    volume = chest.read(chest.files[0])
    if doubt := _doubt(volume, chest):
        return {"doubt": doubt}
    placed = Volume(middle(volume, chest.spacing, chest.size)[None], field(volume.grid, chest.spacing, chest.size))
    io.write(placed, chest.made[0], np.int16)
    picture.parent.mkdir(parents=True, exist_ok=True)
    slices(picture, [("", grey(placed.array[0]))], None, chest.case, placed.grid.spacing)
    return {"air": round(float((placed.array <= LOW + 1).mean()), 4)}


def middle(volume: Volume, mm: float, size: int) -> FloatArray:
    """Return the central cube of a volume [Z, Y, X].

    It is blurred along axes whose voxels become larger, against aliasing, and then interpolated linearly, which avoids
    ringing at edges.
    """
    sigmas = [np.sqrt(max(0.0, mm**2 - own**2)) / FWHM / own for own in volume.grid.spacing]
    smooth = ndimage.gaussian_filter(np.clip(volume.array[0], LOW, HIGH), sigmas, mode="nearest")
    return laid(Volume(smooth[None], volume.grid), field(volume.grid, mm, size), LOW)


def field(grid: Grid, mm: float, size: int) -> Grid:
    """Return the grid of a cube with the same centre and axes."""
    a, b, c = ((n - 1) / 2 - (size - 1) / 2 * mm / own for n, own in zip(grid.shape, grid.spacing, strict=True))
    return grid.moved((a, b, c), (size,) * 3, (mm,) * 3)


def _doubt(volume: Volume, chest: Chest) -> str:
    if doubt := no_hu(volume):
        return doubt
    short = min(volume.grid.extent_mm)
    side = chest.size * chest.spacing
    return (
        ""
        if short >= LEAST_INSIDE * side
        else f"the scan measures {short:.0f} mm, too little for a field of {side:.0f} mm"
    )
