"""IXI → a raw dataset: T1, T2 or PD of healthy brains to another of them, registered here.

    FOLDER/…/IXI-T1/IXI002-Guys-0828-T1.nii.gz        IXI-T2/IXI002-Guys-0828-T2.nii.gz        IXI-PD/…-PD.nii.gz

The sequences of a session lie on grids of their own: sources are laid over the (first) target by a rigid motion and
written on its grid; the target stays where it is, untouched. registration/CASE.json has the motion and what the images
share, CASE.png shows them. Whoever is in doubt is left out and said (brain-development.org/ixi-dataset).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.base import Role, add_flags, gather, wanted, write
from nndiff.cli.command import Command, add_workers, paths_of
from nndiff.errors import NndiffError
from nndiff.files import read_json, write_json
from nndiff.imaging import io
from nndiff.imaging.register import register
from nndiff.pictures import slices
from nndiff.volume import FloatArray
from nndiff.workers import Failure, run, worker_count

SEQUENCES = ("T1", "T2", "PD")
BYTES_A_CASE = 10**9
FIELD = 16  # voxels of the chequered picture
WORDS = {
    "description": "healthy brains, registered rigidly within a session",
    "reference": "IXI dataset, brain-development.org",
    "licence": "CC BY-SA 3.0",
}


@dataclass(frozen=True)
class Pair:
    name: str  # of the case
    channel: int
    moving: Path
    fixed: Path
    folder: Path  # the dataset's

    @property
    def made(self) -> Path:
        return self.folder / "imagesTr" / f"{self.name}_{self.channel:04d}.nii.gz"

    @property
    def record(self) -> Path:
        return self.folder / "registration" / f"{self.name}_{self.channel:04d}.json"


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("ixi", __doc__ or "")
    command.flag("input", short="i", type=Path, required=True, metavar="FOLDER", help="holds IXI-T1, IXI-T2, …")
    command.flag("source", nargs="+", choices=SEQUENCES, default=["T1"], help="one or two (T1)")
    command.flag("target", nargs=1, choices=SEQUENCES, default=["T2"], help="what it becomes (T2)")
    add_flags(command, 934, "IXI")
    add_workers(command)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    raw = paths_of(arguments).raw
    folder = raw / f"Dataset{arguments.dataset:03d}_{arguments.name}"
    *sources, target = (
        Role(side, name, f"{arguments.input}/**/{{case}}-{name}.nii.gz") for side, name in wanted(arguments)
    )
    gathered = gather([*sources, target])
    pairs = [
        Pair(case, channel, files[role], files[target], folder)
        for case, files in gathered.cases.items()
        for channel, role in enumerate(sources)
    ]
    for pair, outcome in run(lay, pairs, worker_count(arguments.np, len(pairs), BYTES_A_CASE), "Register"):
        doubt = outcome.message if isinstance(outcome, Failure) else outcome
        if doubt:
            gathered.left_out[pair.name] = f"{sources[pair.channel].name}: {doubt}"
            gathered.cases.pop(pair.name, None)
        elif pair.name in gathered.cases:
            gathered.cases[pair.name][sources[pair.channel]] = pair.made
    if not gathered.cases:
        case, why = next(iter(gathered.left_out.items()))
        raise NndiffError("Not one pair could be registered.", found=f"{case}: {why}", where=folder / "registration")
    write(arguments, raw, [*sources, target], gathered, WORDS)


def lay(pair: Pair) -> str:
    """Write the source on the target's grid; what is doubtful about it, or nothing. Done before, it stays."""
    if pair.record.exists() and pair.made.exists():
        return str(read_json(pair.record)["doubt"])
    fixed = io.read([pair.fixed])
    found = register(fixed, io.read([pair.moving]))
    io.write(found.volume, pair.made)
    picture = pair.record.with_suffix(".png")
    picture.parent.mkdir(parents=True, exist_ok=True)
    source, target = _grey(found.volume.array[0]), _grey(fixed.array[0])
    fields = (np.indices(source.shape) // FIELD).sum(axis=0) % 2 == 0
    columns = [("source", source), ("both", np.where(fields, source, target)), ("target", target)]
    slices(picture, columns, None, f"{pair.name}: {found.doubt or 'registered'}", fixed.grid.spacing)
    numbers = {name: round(getattr(found, name), 4) for name in ("shift_mm", "degrees", "before", "after", "overlap")}
    write_json(pair.record, {**numbers, "doubt": found.doubt})
    return found.doubt


def _grey(array: FloatArray) -> FloatArray:
    """For pictures: what matters of any kind of image in 0 to 1."""
    low, high = np.percentile(array, (1, 99.5))
    return np.asarray((array - low) / max(float(high - low), 1e-9), dtype=np.float32)


if __name__ == "__main__":
    sys.exit(main())
