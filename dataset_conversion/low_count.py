"""low_count: simulate low-count and uncorrected PET from full-count PET of the same patients, with or without CT.

    python -m dataset_conversion.low_count -d 940 -n Clinic --pet '{patient}/{case}/pet/' --ct '{patient}/{case}/ct/'

    Dataset940_ClinicPET    low-count PET → full-count PET
    Dataset941_ClinicNAC    uncorrected low-count PET → corrected full-count PET (needs the CT)

The last patients can be held out (imagesTs, targetsTs); for each of them, ceiling.json holds the PSNR between a
noiseless reconstruction and the target. Without a CT, the body is assumed to be water.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.base import Gathered, Role, add_flags, add_naming, folder_of, gather, named, write
from dataset_conversion.making import Job, Record, Step, grey, make, no_hu, read, records_of
from dataset_conversion.pet_simulation import Protocol, bytes_needed, covered, simulate
from nndiff.cli.command import Command, add_crew, crew, paths_of
from nndiff.demo.scanner import ceiling
from nndiff.imaging import io
from nndiff.imaging.crop import foreground
from nndiff.imaging.register import laid
from nndiff.pictures import slices
from nndiff.words.errors import NndiffError
from nndiff.words.files import write_json
from nndiff.words.kind import PET
from nndiff.words.volume import Box, Volume

KINDS = (
    ("PET", "PET", "low-count PET to full-count PET"),
    ("NAC", "NAC PET", "uncorrected low-count PET to corrected"),
)
BRIGHTEST_SUV = 1000.0  # a bladder reaches a few hundred at most; values in Bq/mL reach tens of thousands
HIGHEST_MEDIAN_SUV = 5.0  # of the body, whose mean SUV is about 1
FARTHEST_HU = 500.0  # largest distance from water of the median CT value in voxels with activity
MOST_COUNTS, LARGEST_PIXEL = 1e9, 20.0
LEAST_INSIDE = 0.9  # least share of the activity that the CT must cover


@dataclass(frozen=True)
class Patient(Job):
    """The simulation of one real scan; `files`: the PET and, if there is one, the CT."""

    part: str  # Tr | Ts
    seed: int
    folders: tuple[Path, ...]  # of the datasets: low counts, uncorrected
    protocol: Protocol

    @property
    def generator(self) -> np.random.Generator:
        """Return a generator that depends only on the seed and the case's name, not on the other cases."""
        return np.random.default_rng([self.seed, *self.case.encode()])

    def file(self, folder: Path, side: str) -> Path:
        return _file(folder, side, self.part, self.case)


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("low_count", __doc__ or "")
    command.flag("pet", required=True, metavar="PATTERN", help="PET in SUV, as files or DICOM series")
    command.flag("ct", default=None, metavar="PATTERN", help="CT of the same cases, on any grid")
    add_flags(command, 940, "Clinic")
    add_scan_flags(command, held_out=0, pixel_mm=4.0)
    return command.run(lambda arguments: convert(arguments, arguments.pet, arguments.ct, {}), argv)


def add_scan_flags(command: Command, held_out: int, pixel_mm: float) -> None:
    flag = command.flag
    flag(
        "dose",
        type=float,
        default=Protocol.dose,
        metavar="SHARE",
        help="share of the counts that are kept (default: 0.1)",
    )
    flag(
        "counts",
        type=float,
        default=Protocol.counts,
        metavar="N",
        help="counts per SUV and mL at full dose (default: 3600)",
    )
    flag(
        "pixel_mm",
        type=float,
        default=pixel_mm,
        metavar="MM",
        help=f"smallest pixel size; finer pixels are enlarged (default: {pixel_mm:g})",
    )
    flag(
        "held_out", type=int, default=held_out, metavar="N", help=f"hold out the last N patients (default: {held_out})"
    )
    flag("seed", type=int, default=0, metavar="N", help="random seed of the noise (default: 0)")
    add_naming(command)
    add_crew(command)


def convert(arguments: argparse.Namespace, pet: str, ct: str | None, words: Mapping[str, str]) -> None:
    """Simulate the scans that the patterns find, and write the low-count and, with a CT, the uncorrected dataset."""
    raw, number, name = paths_of(arguments).raw, arguments.dataset, arguments.name
    kinds = KINDS if ct else KINDS[:1]
    folders = tuple(folder_of(raw, number + i, f"{name}{kind}") for i, (kind, *_) in enumerate(kinds))
    roles = [Role("images", "PET", pet), *([Role("images", "CT", ct)] if ct else [])]
    protocol = Protocol(counts=arguments.counts, dose=arguments.dose, pixel_mm=arguments.pixel_mm)
    if not (0 < protocol.dose < 1 and 1 <= protocol.counts <= MOST_COUNTS and 0 <= protocol.pixel_mm <= LARGEST_PIXEL):
        raise NndiffError(
            "A setting of the simulated PET is out of range.",
            expected=f"0 < dose < 1, counts 1 to {MOST_COUNTS:.0e}, pixel_mm 0 to {LARGEST_PIXEL:g}",
            found=f"dose {protocol.dose}, counts {protocol.counts}, pixel_mm {protocol.pixel_mm}",
            remedy="correct --dose, --counts or --pixel_mm",
        )
    if arguments.seed < 0:
        raise NndiffError("--seed is out of range.", expected="0 or more", found=arguments.seed)
    gathered = named(gather(roles), folders[0], arguments.case_names)
    patients = patients_of(gathered, roles, arguments.held_out, arguments.seed, folders, protocol)
    settings = {"pet": pet, "ct": ct, "seed": arguments.seed, "held_out": arguments.held_out, **asdict(protocol)}
    step = Step("simulation", scan, settings, _bytes_needed(patients))
    make(step, patients, gathered, folders[0], crew(arguments), arguments.overwrite)
    tops = {name: record["ceiling"] for name, record in records_of("simulation", folders[0]) if "ceiling" in record}
    here = [patient for patient in patients if patient.case in gathered.cases]
    for folder, (_, channel, description) in zip(folders, kinds, strict=True):
        sides = Role("images", channel, pet), Role("targets", "PET", pet)
        files = {p.case: {role: p.file(folder, role.side) for role in sides} for p in here if p.part == "Tr"}
        made = Gathered(files, gathered.patients, gathered.left_out)
        write(folder, sides, made, {"description": f"{description}, counts simulated", **words}, arguments.overwrite)
        write_json(folder / "ceiling.json", {p.case: tops[p.case] for p in here if p.part == "Ts"})


def patients_of(
    gathered: Gathered, roles: Sequence[Role], held_out: int, seed: int, folders: tuple[Path, ...], protocol: Protocol
) -> list[Patient]:
    """Return one job per case, sorted by name; the scans of the last `held_out` patients are held out."""
    everybody = list(dict.fromkeys(gathered.patients.get(case, case) for case in sorted(gathered.cases)))
    if not 0 <= held_out < len(everybody):
        raise NndiffError(
            "No patient is left to train on.",
            expected="--held_out from 0 to the number of patients minus 1",
            found=f"{len(everybody)} patients, --held_out {held_out}",
            remedy="correct the patterns, or pass a smaller --held_out",
        )
    kept = set(everybody[len(everybody) - held_out :])
    patients = []
    for case, files in sorted(gathered.cases.items()):
        part = "Ts" if gathered.patients.get(case, case) in kept else "Tr"
        made = tuple(_file(folder, side, part, case) for folder in folders for side in ("images", "targets"))
        patients.append(Patient(case, tuple(files[role] for role in roles), made, part, seed, folders, protocol))
    return patients


def _file(folder: Path, side: str, part: str, case: str) -> Path:
    return folder / f"{side}{part}" / f"{case}_0000.nii.gz"


def _bytes_needed(patients: Sequence[Patient]) -> int:
    """Return the memory of the first readable scan; unreadable scans are reported when they are processed."""
    for patient in patients:
        with suppress(NndiffError):
            return bytes_needed(io.read_header(patient.files[0]), patient.protocol)
    return 0


def scan(patient: Patient, picture: Path) -> Record:
    """Write the files of one scan and return its record; only a doubt if the PET is not in SUV or the CT not in HU."""
    pet, *others = map(read, patient.files)
    ct = others[0] if others else None
    if doubt := _doubt(pet, ct):
        return {"doubt": doubt}
    cut = 0
    if ct is not None:
        before, (pet, ct) = pet.grid.shape, _covered(pet, ct)
        cut = sum(before) - sum(pet.grid.shape)
    exam = simulate(pet, ct, patient.protocol, patient.generator).within_the_cut()
    layout = pet.layout if exam.grid == pet.grid else None
    for folder, source in zip(patient.folders, (exam.low, exam.uncorrected), strict=False):
        for side, array in (("images", source), ("targets", exam.full)):
            io.write(Volume(array[None], exam.grid, layout), patient.file(folder, side))
    columns = [("low counts", exam.low), ("uncorrected", exam.uncorrected), ("all counts", exam.full)]
    picture.parent.mkdir(parents=True, exist_ok=True)
    slices(picture, [(name, grey(array)) for name, array in columns], None, patient.case, exam.grid.spacing)
    return {"ceiling": round(ceiling(exam.noiseless, exam.full), 3), "planes_without_ct": cut}


def _covered(pet: Volume, ct: Volume) -> tuple[Volume, Volume]:
    """Return PET and CT without the planes at the PET's ends that the CT does not cover."""
    box = covered(pet, ct)
    if box.shape == pet.grid.shape:
        return pet, ct
    same = ct.grid.difference(pet.grid) is None
    return _cropped(pet, box), _cropped(ct, box) if same else ct


def _cropped(volume: Volume, box: Box) -> Volume:
    return Volume(volume.array[(..., *box.slices)], volume.grid.cropped(box))


def _doubt(pet: Volume, ct: Volume | None) -> str:
    low, high = float(pet.array.min()), float(pet.array.max())
    body = foreground(pet.array[0], PET)
    middle = float(np.median(pet.array[0][body])) if body.any() else 0.0
    if not 0 < high <= BRIGHTEST_SUV or low < -0.1 * high or middle > HIGHEST_MEDIAN_SUV:
        return f"the PET seems not to be in SUV: values from {low:.3g} to {high:.3g}, with {middle:.3g} as the median"
    if ct is None:
        return ""
    if doubt := no_hu(ct):
        return doubt
    activity = np.maximum(pet.array[0], 0)
    reached = laid(Volume(np.ones_like(ct.array), ct.grid), pet.grid) > 0.5
    inside = float(activity[reached].sum() / activity.sum())
    if inside < LEAST_INSIDE:
        return f"the CT covers only {inside:.0%} of the activity"
    density = float(np.median(laid(ct, pet.grid)[body & reached]))
    return (
        ""
        if abs(density) < FARTHEST_HU
        else f"the CT has {density:.0f} HU in the active body, so it seems not to match the PET"
    )


if __name__ == "__main__":
    sys.exit(main())
