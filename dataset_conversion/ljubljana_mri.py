"""T1 → FLAIR (or T2) of multiple sclerosis patients, from the Laboratory of Imaging Technologies, Ljubljana.

    Dataset920_T1toFLAIR    Dataset921_T1toT2 with --target T2

Input: a folder of patientNN_sM_{T1,T2,FLAIR}.nii.gz, registered within a scan. Scans of one patient form a group, so
that no split tears them apart.

The files stay where they are: dataset.json names them by their whole path. They are used unchanged, so a copy would
only cost disk, and could differ from the original one day; whoever moves the folder runs this again.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nndiff.cli.command import Command, paths_of
from nndiff.errors import NndiffError
from nndiff.files import write_json

DATASETS = {"FLAIR": "Dataset920_T1toFLAIR", "T2": "Dataset921_T1toT2"}
SCAN = re.compile(r"^(?P<scan>(?P<patient>patient\d+)_s\d+)_T1\.nii\.gz$")
REFERENCE = "Lesjak et al., Neuroinformatics 2016 and 2018: MS databases, Laboratory of Imaging Technologies, Ljubljana"


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("ljubljana_mri", __doc__ or "")
    command.flag("input", short="i", type=Path, required=True, metavar="FOLDER", help="holds patientNN_sM_T1.nii.gz, …")
    command.flag("target", choices=sorted(DATASETS), default="FLAIR", help="what T1 is translated to (FLAIR)")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    print(f"Wrote {convert(arguments.input, paths_of(arguments).raw, arguments.target)}")


def convert(folder: Path, raw: Path, target: str = "FLAIR") -> Path:
    """Write dataset.json; the dataset's folder."""
    patients = {
        match["scan"]: match["patient"] for path in sorted(folder.glob("*")) if (match := SCAN.match(path.name))
    }
    if not patients:
        raise NndiffError(
            "There is no scan here.", expected="patientNN_sM_T1.nii.gz", where=folder, remedy="check --input"
        )
    files = {
        scan: {side: [_file(folder, scan, sequence)] for side, sequence in (("images", "T1"), ("targets", target))}
        for scan in patients
    }
    words = {
        "name": f"T1to{target}",
        "description": f"T1 to {target} of multiple sclerosis patients, registered, thick slices",
        "reference": REFERENCE,
        "licence": "CC BY",
        "channel_names": {"0": "T1"},
        "target_names": {"0": target},
        "file_ending": ".nii.gz",
        "numTraining": len(files),
        "dataset": files,
        "groups": patients,
    }
    write_json(raw / DATASETS[target] / "dataset.json", words)
    return raw / DATASETS[target]


def _file(folder: Path, scan: str, sequence: str) -> str:
    path = folder.resolve() / f"{scan}_{sequence}.nii.gz"
    if not path.is_file():
        raise NndiffError(f"Scan {scan} has no {sequence}.", expected=path.name, where=folder, remedy="add it")
    return str(path)


if __name__ == "__main__":
    sys.exit(main())
