"""Draw masks of the body or the head from one image per case: masksTr/CASE.nii.gz, with a picture of each in masks/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.base import Gathered, Role
from dataset_conversion.making import Job, Record, Step, grey, make, read
from nndiff.imaging import io
from nndiff.imaging.masks import mask
from nndiff.pictures import slices
from nndiff.words.crew import Workers
from nndiff.words.kind import Kind, kind_of
from nndiff.words.volume import Volume


@dataclass(frozen=True)
class Image(Job):
    kind: Kind
    region: str


def add_masks(
    gathered: Gathered, roles: Sequence[Role], folder: Path, region: str, workers: Workers, overwrite: bool
) -> Role:
    """Add a mask to every case, exclude doubtful cases, and return the role of the masks.  `region`: body | head."""
    shows = max(sorted(roles, key=lambda role: role.side != "targets"), key=lambda role: kind_of(role.name).rim)
    images = [
        Image(case, (files[shows],), (folder / "masksTr" / f"{case}.nii.gz",), kind_of(shows.name), region)
        for case, files in gathered.cases.items()
    ]
    make(
        Step("masks", draw, {"of": region, "by": shows.name, "in": shows.pattern}),
        images,
        gathered,
        folder,
        workers,
        overwrite,
    )
    made = Role("mask", "", f"{folder}/masksTr/{{case}}.nii.gz")
    for image in images:
        if image.case in gathered.cases:
            gathered.cases[image.case][made] = image.made[0]
    return made


def draw(image: Image, picture: Path) -> Record:
    volume = read(image.files[0])
    found, doubt = mask(volume.array[0], image.kind, volume.grid.spacing, image.region)
    io.write(Volume(found[None].astype(np.float32), volume.grid, volume.layout), image.made[0], np.uint8)
    shown = grey(volume.array[0])
    columns = [("left out", np.where(found, 0, shown)), (image.region, np.where(found, shown, 0)), ("image", shown)]
    picture.parent.mkdir(parents=True, exist_ok=True)
    slices(picture, columns, None, f"{image.case}: {doubt or image.region}", volume.grid.spacing)
    return {"share": round(float(found.mean()), 4), "doubt": doubt}
