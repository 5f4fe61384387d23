"""cbct: simulate CBCT from CT, for CBCT → CT translation of patients without a real CBCT (see cbct_simulation).

    python -m dataset_conversion.cbct -d 970 -n Pelvis --ct 'planning/{patient}/{case}/'

The CT is the target and stays where it is; imagesTr holds the simulated CBCT on its grid, cbct/CASE.png shows both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dataset_conversion.base import Role, add_flags, add_naming, dataset_of, gather, named, write
from dataset_conversion.cbct_simulation import Beam, simulate
from dataset_conversion.making import Job, Record, Step, make, no_hu, read
from nndiff.cli.command import Command, add_crew, crew
from nndiff.imaging import io
from nndiff.pictures import slices
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Volume

BYTES_A_CASE = 2 * 10**9
WINDOW = (-500.0, 500.0)  # HU, of the picture


@dataclass(frozen=True)
class Patient(Job):
    seed: int
    beam: Beam


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("cbct", __doc__ or "")
    command.flag("ct", required=True, metavar="PATTERN", help="CT in HU, as files or DICOM series")
    add_flags(command, 970, "CBCT")
    for name, words in (
        ("photons", "photons per mm² of detector and angle, without a patient"),
        ("angles", "number of projection angles"),
        ("scatter", "scatter per primary photon and attenuation length"),
        ("field_mm", "field of view of the detector at the patient, in mm"),
    ):
        default = getattr(Beam, name)
        command.flag(name, type=type(default), default=default, metavar="N", help=f"{words} (default: {default:g})")
    command.flag("seed", type=int, default=0, metavar="N", help="random seed of the noise (default: 0)")
    add_naming(command)
    add_crew(command)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    beam = Beam(arguments.photons, arguments.angles, arguments.scatter, field_mm=arguments.field_mm)
    within = 1 <= beam.photons <= 1e12, 10 <= beam.angles <= 10_000, 0 <= beam.scatter <= 1, 50 <= beam.field_mm <= 2000
    if not (all(within) and arguments.seed >= 0):
        raise NndiffError(
            "A setting of the simulated CBCT is out of range.",
            expected="photons 1 to 1e12, angles 10 to 10000, scatter 0 to 1, field_mm 50 to 2000, seed from 0",
            found=", ".join(f"{name} {value:g}" for name, value in asdict(beam).items()) + f", seed {arguments.seed}",
            remedy="correct the setting that is out of range",
        )
    folder = dataset_of(arguments)
    source, target = Role("images", "CBCT", "simulated"), Role("targets", "CT", arguments.ct)
    gathered = named(gather([target]), folder, arguments.case_names)
    patients = [
        Patient(case, (files[target],), (folder / "imagesTr" / f"{case}_0000.nii.gz",), arguments.seed, beam)
        for case, files in gathered.cases.items()
    ]
    settings = {"ct": arguments.ct, "seed": arguments.seed, **asdict(beam)}
    make(Step("cbct", scan, settings, BYTES_A_CASE), patients, gathered, folder, crew(arguments), arguments.overwrite)
    for patient in patients:
        if patient.case in gathered.cases:
            gathered.cases[patient.case][source] = patient.made[0]
    words = {"description": "CBCT to CT, the CBCT simulated from the CT"}
    write(folder, [source, target], gathered, words, arguments.overwrite)


def scan(patient: Patient, picture: Path) -> Record:
    ct = read(patient.files[0])
    if doubt := no_hu(ct):
        return {"doubt": doubt}
    made = simulate(ct, patient.beam, np.random.default_rng([patient.seed, *patient.case.encode()]))
    io.write(Volume(made[None], ct.grid, ct.layout), patient.made[0], np.int16)
    picture.parent.mkdir(parents=True, exist_ok=True)
    columns = [(name, np.clip(array, *WINDOW) - WINDOW[0]) for name, array in (("CBCT", made), ("CT", ct.array[0]))]
    slices(picture, columns, None, patient.case, ct.grid.spacing)
    return {"mean_difference_hu": round(float((made - ct.array[0]).mean()), 1)}


if __name__ == "__main__":
    sys.exit(main())
