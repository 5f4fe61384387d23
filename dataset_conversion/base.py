"""Common code of converters that leave files in place: find files by patterns, group them to cases, write dataset.json.

    '{case}/mr.mha', '{case}/ct.mha' ─ the text of {case} ─▶ case → its files: complete → a row of dataset.json
                                                                               incomplete → excluded, with the reason

In a pattern * matches any text within a name, ** any folders, {case} and {patient} the parts of a path that name them.
{patient} and * match the shortest possible text, so that scans are assigned to one patient rather than to two. The name
of a case joins the texts of {patient} and {case}; without {case}, the texts of {patient} and of every *. A pattern that
ends with / or .zip finds DICOM series. conversion.json lists the excluded cases with the reasons; if cases are named by
numbers, case_numbers.json lists the path of each number.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nndiff.cli.command import Command, paths_of
from nndiff.words.dataset import FILE_ENDINGS
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, write_json
from nndiff.words.paths import FOLDER
from nndiff.words.telling import counted, show

REPORT, NUMBERS = "conversion.json", "case_numbers.json"
SERIES = ("/", ".zip")
NAMED = 3  # excluded cases that are printed by name
WILD = re.compile(r"\*\*/|\*|\{case\}|\{patient\}")
UNFIT = re.compile(r"[^\w.-]+")  # characters that the name of a case, and so of its files, must not contain


@dataclass(frozen=True)
class Role:
    """The role of a file in its case, and the pattern by which it is found."""

    side: str  # images | targets | mask
    name: str  # of the channel; empty for a mask
    pattern: str
    fits: re.Pattern[str] | None = None  # the name of the case must match it


@dataclass
class Gathered:
    cases: dict[str, dict[Role, Path]] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # excluded case → the reason


def add_flags(command: Command, number: int | None, name: str | None) -> None:
    """Add -d, -n and --overwrite; -d and -n are required if the converter has no default number and name."""
    asks = number is None
    shown = "" if asks else f" (Dataset{number:03d}_{name})"
    command.flag(
        "dataset",
        short="d",
        type=int,
        required=asks,
        default=number,
        metavar="ID",
        help=f"number of the dataset{shown}",
    )
    command.flag(
        "name", short="n", required=asks, default=name, metavar="NAME", help="name of the dataset, after the number"
    )
    command.flag("overwrite", action="store_true", help="replace a dataset.json that differs")


def add_channels(command: Command, holds: str, what: str) -> None:
    """Add -i, and --source and --target, which take names of channels."""
    command.flag("input", short="i", type=Path, required=True, metavar="FOLDER", help=holds)
    command.flag("source", nargs="+", default=[], metavar="NAME", help=f"{what}; none for generation")
    command.flag("target", nargs="+", required=True, metavar="NAME", help="target channels")


def dataset_of(arguments: argparse.Namespace) -> Path:
    """Return the dataset's folder from -d, -n and the root of raw data."""
    return folder_of(paths_of(arguments).raw, arguments.dataset, arguments.name)


def add_naming(command: Command) -> None:
    """Add --case_names, for converters that derive the names of cases from paths."""
    words = "how cases are named (default: paths, if they hold no patient's name)"
    command.flag("case_names", choices=("paths", "numbers"), default=None, help=words)


def wanted(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Return (side, name) of every channel; refuse a channel that is both source and target."""
    if both := set(arguments.source) & set(arguments.target):
        raise NndiffError(
            "A channel cannot be both source and target.",
            found=", ".join(sorted(both)),
            remedy="remove it from --source or from --target",
        )
    return [("images", name) for name in arguments.source] + [("targets", name) for name in arguments.target]


# ---------------------------------------------------------------- files → cases


def gather(roles: Sequence[Role]) -> Gathered:
    """Return every case that has one file for each role, and the other cases with the reason for their exclusion."""
    found: dict[str, dict[Role, list[Path]]] = {}
    gathered = Gathered()
    for role in roles:
        for path, case, patient in _matches(role.pattern):
            if role.fits is not None and not role.fits.fullmatch(case):
                continue
            found.setdefault(case, {}).setdefault(role, []).append(path)
            if patient:
                gathered.patients[case] = patient
    for case, files in sorted(found.items()):
        missing = [role for role in roles if role not in files]
        twice = next((paths for paths in files.values() if len(paths) > 1), None)
        if twice is not None:
            gathered.left_out[case] = f"two files match the same channel: {twice[0]} and {twice[1]}"
        elif missing:
            words = ", ".join(f"no {role.name or 'mask'} ({role.pattern})" for role in missing)
            gathered.left_out[case] = words
        else:
            gathered.cases[case] = {role: paths[0] for role, paths in files.items()}
    if not found:
        raise NndiffError(
            "No case is named by the patterns: one of them is the path of a file, as when the shell has expanded it."
            if any(Path(role.pattern).is_file() for role in roles)
            else "No file matches the patterns.",
            expected="\n            ".join(role.pattern for role in roles),
            found=_nearby(roles[0].pattern),
            remedy=_remedy([role.pattern for role in roles]),
        )
    if not gathered.cases:
        case, why = next(iter(gathered.left_out.items()))
        raise NndiffError(
            f"None of the {len(found)} cases has a file for every channel.",
            found=f"{case}: {why}",
            remedy="mark the part of each path that names the case with {case}",
        )
    return gathered


def named(gathered: Gathered, folder: Path, by: str | None) -> Gathered:
    """Return the cases named by their paths or by numbers; a case keeps its number in later conversions.

    A case name that contains a patient's name or number is refused, unless `by` says explicitly how cases are named.
    """
    from nndiff.imaging import dicom

    gathered = replace(gathered, patients=_patients(gathered))
    if by is None:
        for case, files in gathered.cases.items():
            series = [path for path in files.values() if dicom.is_series(path)]
            if any(_names_patient(path, case) for path in series):
                raise NndiffError(
                    "A case name would contain the name of a patient.",
                    expected="names that may appear in results, pictures and logs",
                    where=series[0],
                    remedy="pass --case_names numbers to use case0001, …, or --case_names paths to keep these names",
                )
    if by != "numbers":
        return gathered
    path = folder / NUMBERS
    numbers: dict[str, dict[str, str]] = read_json(path) if path.exists() else {"cases": {}, "patients": {}}
    everybody = sorted({*gathered.cases, *gathered.left_out})
    for kind, names in (("case", everybody), ("patient", sorted(set(gathered.patients.values())))):
        given = numbers[f"{kind}s"]
        for name in names:
            given.setdefault(name, f"{kind}{len(given) + 1:04d}")
    write_json(path, numbers)
    cases, patients = numbers["cases"], numbers["patients"]
    return Gathered(
        {cases[case]: files for case, files in gathered.cases.items()},
        {cases[case]: patients[patient] for case, patient in gathered.patients.items() if case in gathered.cases},
        {cases[case]: why for case, why in gathered.left_out.items()},
    )


def _patients(gathered: Gathered) -> dict[str, str]:
    """Return the patient of every case where that is known: by its path, or by the PatientID of its DICOM series.

    Cases with one PatientID are one group, which is named after the first of them, so the number is not stored.
    """
    from nndiff.imaging import dicom

    patients, first = dict(gathered.patients), dict[str, str]()
    for case, files in sorted(gathered.cases.items()):
        series = next((path for path in files.values() if dicom.is_series(path)), None)
        if case in patients or series is None:
            continue
        with suppress(NndiffError):  # an unreadable file is reported later, by the code that needs it
            if number := dicom.patient_number(series):
                patients[case] = first.setdefault(number, case)
    return patients


def _names_patient(path: Path, case: str) -> bool:
    from nndiff.imaging import dicom

    with suppress(NndiffError):  # an unreadable file is reported later, by the code that needs it
        return dicom.names_patient(path, case)
    return False


def _matches(pattern: str) -> list[tuple[Path, str, str]]:
    """Return (file, case, patient) of every file that matches."""
    whole = os.path.abspath(os.path.expanduser(pattern)) + "/" * pattern.endswith("/")
    expression = re.compile(_expression(whole))
    matches = []
    for text in sorted(_globbed(whole)):
        match, path = expression.fullmatch(text), Path(text)
        if match is None or not text.endswith((*FILE_ENDINGS, *SERIES)):
            continue
        case = UNFIT.sub("_", "_".join(part for part in match.groups() if part not in ("", ".gz"))).strip("._")
        if case:
            matches.append((path, case, match.groupdict().get("patient", "")))
    return matches


def _globbed(whole: str) -> list[str]:
    return glob.glob(_pieced(whole, glob.escape, lambda wild: wild if wild == "**/" else "*"), recursive=True)


def _expression(pattern: str) -> str:
    """Return the regular expression of a pattern; a repeated {case} or {patient} must match the same text again."""
    seen: set[str] = set()
    named = "{case}" in pattern

    def group(wild: str) -> str:
        key = wild.strip("{}")
        if wild == "**/":
            return r"(?:[^/]+/)*"
        if wild == "*":
            return r"[^/]*?" if named else r"([^/]*?)"
        if key in seen:
            return f"(?P={key})"
        seen.add(key)
        return f"(?P<{key}>[^/]+?)" if key == "patient" else f"(?P<{key}>[^/]+)"

    return _pieced(pattern, re.escape, group)


def _pieced(pattern: str, plain: Callable[[str], str], wild: Callable[[str], str]) -> str:
    """Return the pattern with `plain` applied to its literal parts and `wild` to its placeholders."""
    pieces, end = [], 0
    for found in WILD.finditer(pattern):
        pieces += [plain(pattern[end : found.start()]), wild(found[0])]
        end = found.end()
    return "".join([*pieces, plain(pattern[end:])])


def _remedy(patterns: Sequence[str]) -> str:
    from nndiff.imaging import dicom

    for pattern in patterns:
        if strange := re.search(r"\{(?!case\}|patient\})[^}]*\}", pattern):
            return f"replace {strange[0]}, which is not known, by {{case}} or {{patient}}"
        folders = [text for text in _globbed(os.path.abspath(os.path.expanduser(pattern))) if os.path.isdir(text)]
        if not pattern.endswith("/") and any(dicom.holds_dicom(Path(text)) for text in folders[:NAMED]):
            return f"end {pattern} with /, because it matches folders of DICOM files"
    return "put the patterns in quotes, and compare them with the full path of a file"


def _nearby(pattern: str) -> str:
    """Return a description of the contents of the deepest existing folder of a pattern."""
    folder = Path(os.path.abspath(os.path.expanduser(WILD.split(pattern)[0] + "x"))).parent
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return (
        f"{', '.join(names[:NAMED])}{', …' if len(names) > NAMED else ''} in {folder}"
        if names
        else f"{folder}, which is empty"
    )


# ---------------------------------------------------------------- cases → a raw dataset


def folder_of(raw: Path, number: int, name: str) -> Path:
    """Return the folder of the dataset; refuse a number that another dataset has."""
    folder = raw / f"Dataset{number:03d}_{name}"
    if not (FOLDER.match(folder.name) and number > 0):
        raise NndiffError(
            "The number or name of the dataset is not valid.",
            expected="-d from 1 to 999, and -n of letters, digits, - and _",
            found=folder.name,
        )
    others = [path.name for path in raw.glob(f"{folder.name[:10]}_*") if path.name != folder.name]
    if others:
        raise NndiffError(
            f"Another dataset has the number {folder.name[7:10]}.",
            found=others[0],
            where=raw,
            remedy="choose another number (-d)",
        )
    return folder


def write(
    folder: Path, roles: Sequence[Role], gathered: Gathered, words: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Write dataset.json and conversion.json, and print a summary."""
    sides = {side: [role for role in roles if role.side == side] for side in ("images", "targets", "mask")}
    first = next(iter(gathered.cases.values()))
    data = {
        **words,
        "name": folder.name.partition("_")[2],
        "channel_names": {str(i): role.name for i, role in enumerate(sides["images"])},
        "target_names": {str(i): role.name for i, role in enumerate(sides["targets"])},
        "file_ending": next((e for e in FILE_ENDINGS if first[sides["targets"][0]].name.endswith(e)), ".nii.gz"),
        "numTraining": len(gathered.cases),
        "dataset": {case: _row(files, sides, folder) for case, files in gathered.cases.items()},
        "groups": {case: gathered.patients.get(case, case) for case in gathered.cases},
    }
    path = folder / "dataset.json"
    if path.exists() and read_json(path) != data and not overwrite:
        raise NndiffError(
            "A different dataset.json exists already.",
            where=path,
            remedy="pass --overwrite to replace it, or choose another number (-d)",
        )
    write_json(path, data)
    write_json(folder / REPORT, {"cases": len(gathered.cases), "left_out": gathered.left_out})
    _tell(folder, gathered)


def _row(files: Mapping[Role, Path], sides: Mapping[str, Sequence[Role]], folder: Path) -> dict[str, Any]:
    """Return a case's row of dataset.json; paths in the dataset's folder are relative, so that it can be moved."""

    def name(role: Role) -> str:
        path = files[role]
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    row: dict[str, Any] = {side: [name(role) for role in sides[side]] for side in ("images", "targets")}
    return {**row, "mask": name(sides["mask"][0])} if sides["mask"] else row


def _tell(folder: Path, gathered: Gathered) -> None:
    patients = len({gathered.patients.get(case, case) for case in gathered.cases})
    show(f"Wrote {folder}: {counted(len(gathered.cases), 'case')} of {counted(patients, 'patient')}")
    told = [(case, gathered.patients.get(case, case)) for case in gathered.cases]
    for case, patient in [pair for pair in told if len(set(pair)) > 1][:1]:
        show(f"  for example case {case} of patient {patient}")
    for case, why in list(gathered.left_out.items())[:NAMED]:
        show(f"  case left out: {case}: {why}")
    if len(gathered.left_out) > NAMED:
        show(f"  and {len(gathered.left_out) - NAMED} more; the full list is in {folder / REPORT}")
    print(f"Next: nndiff_plan_and_preprocess -d {int(folder.name[7:10])}")
