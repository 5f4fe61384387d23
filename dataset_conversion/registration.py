"""Register sources to the first target of their case and write them on its grid; the target stays where it is.

registration/CASE_0000.json holds the motion and the mutual information of the images; CASE_0000.png shows the overlay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.base import Gathered, Role
from dataset_conversion.making import Job, Record, Step, grey, make, read
from nndiff.imaging import io
from nndiff.imaging.register import register
from nndiff.pictures import slices
from nndiff.words.crew import Workers
from nndiff.words.kind import kind_of

FIELD = 16  # voxels per field of the chequerboard picture
FIGURES = ("shift_mm", "degrees", "stretch", "before", "after", "overlap")


@dataclass(frozen=True)
class Pair(Job):
    """The registration of one source channel; `files`: the source and the target."""

    channel: int
    source: str  # its name
    outside: float  # the value of the result where the source does not reach
    stretched: bool

    @property
    def name(self) -> str:
        return f"{self.case}_{self.channel:04d}"


def register_sources(
    gathered: Gathered, roles: Sequence[Role], folder: Path, motion: str, workers: Workers, overwrite: bool
) -> None:
    """Register the sources of every case; exclude doubtful cases, and replace the other sources by the written files.

    `motion`: rigid | affine.
    """
    sources = [role for role in roles if role.side == "images"]
    target = next(role for role in roles if role.side == "targets")
    pairs = [
        Pair(
            case,
            (files[role], files[target]),
            (folder / "imagesTr" / f"{case}_{i:04d}.nii.gz",),
            i,
            role.name,
            kind_of(role.name).background,
            motion == "affine",
        )
        for case, files in gathered.cases.items()
        for i, role in enumerate(sources)
    ]
    settings = {"motion": motion, "sources": [role.pattern for role in sources], "target": target.pattern}
    make(Step("registration", lay, settings), pairs, gathered, folder, workers, overwrite)
    for pair in pairs:
        if pair.case in gathered.cases:
            gathered.cases[pair.case][sources[pair.channel]] = pair.made[0]


def lay(pair: Pair, picture: Path) -> Record:
    moving, fixed = map(read, pair.files)
    found = register(fixed, moving, pair.outside, pair.stretched)
    io.write(found.volume, pair.made[0])
    picture.parent.mkdir(parents=True, exist_ok=True)
    source, target = grey(found.volume.array[0]), grey(fixed.array[0])
    fields = (np.indices(source.shape) // FIELD).sum(axis=0) % 2 == 0
    columns = [("source", source), ("both", np.where(fields, source, target)), ("target", target)]
    slices(picture, columns, None, f"{pair.name}: {found.doubt or 'registered'}", fixed.grid.spacing)
    return {
        **{name: round(getattr(found, name), 4) for name in FIGURES},
        "doubt": f"{pair.source}: {found.doubt}" if found.doubt else "",
    }
