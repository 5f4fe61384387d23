"""Read dataset.json and the folders beside it into cases. Only the structure is checked; no image is opened here.

    Dataset001_Name/
        dataset.json
        imagesTr/CASE_0000.nii.gz      source channel 0 (absent for generation)
        targetsTr/CASE_0000.nii.gz     target channel 0
        masksTr/CASE.nii.gz            optional: the region in which losses and metrics are computed

Each problem of the structure becomes a `Finding`. The caller decides whether to report the findings or to stop.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from nndiff.words import strict_json
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART, read_json
from nndiff.words.names import of_one_patient, shown, unfit
from nndiff.words.telling import counted

FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
TASKS = ("translation", "generation")


@dataclass(frozen=True)
class Finding:
    """One problem of a dataset: its place, a description and the remedy."""

    case: str
    file: str
    what: str
    remedy: str
    severity: str = "error"  # error | warning

    def __str__(self) -> str:
        place = f"Case {self.case}: " if self.case else ""
        file = f"\n  file: {self.file}" if self.file else ""
        return f"{place}{self.what}{file}\n  remedy: {self.remedy}"


@dataclass(frozen=True)
class InPlace:
    """The files of one case that stay where they are: one row of "dataset" in dataset.json."""

    images: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    mask: str | None = None


@dataclass(frozen=True)
class DatasetJson:
    """The contents of dataset.json: one field per key."""

    target_names: dict[str, str]
    file_ending: str
    channel_names: dict[str, str] = field(default_factory=dict)
    task: str | None = None
    numTraining: int | None = None  # nnU-Net's spelling
    dataset: dict[str, InPlace] | None = None
    groups: dict[str, str] = field(default_factory=dict)
    name: str = ""
    description: str = ""
    reference: str = ""
    licence: str = ""
    release: str = ""


@dataclass(frozen=True)
class Case:
    name: str
    group: str  # the patient: all cases of a group fall into the same part of a split
    source: tuple[Path, ...]  # one file per channel
    target: tuple[Path, ...]
    mask: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.source, *self.target, *([self.mask] if self.mask else []))


@dataclass(frozen=True)
class Dataset:
    name: str
    folder: Path
    task: str
    channel_names: tuple[str, ...]
    target_names: tuple[str, ...]
    file_ending: str
    cases: tuple[Case, ...]  # the complete cases, sorted by name
    findings: tuple[Finding, ...]  # problems of the structure

    def demand_sound(self) -> None:
        """Refuse a dataset with structural errors and report the first; `--no-verify_dataset_integrity` keeps this."""
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise NndiffError(
                f"{_place(errors[0])}{errors[0].what}{more}",
                where=errors[0].file or self.folder,
                remedy=errors[0].remedy,
            )


def read(folder: Path) -> Dataset:
    """Return one raw dataset. Errors in dataset.json itself are raised; every other problem becomes a finding."""
    words = _read_json(folder)
    channel_names, target_names = (
        _names(words.channel_names, "channel_names", folder),
        _names(words.target_names, "target_names", folder),
    )
    task = _task(words, folder)
    sources, targets, masks, findings = (
        _in_place(words, folder) if words.dataset is not None else _from_folders(words, folder)
    )
    cases, found = _whole_cases(sources, targets, masks, words, len(channel_names), len(target_names), folder)
    findings = [*findings, *found, *_count_findings(words, cases, folder), *_patient_findings(words, cases, folder)]
    return Dataset(
        name=folder.name,
        folder=folder,
        task=task,
        channel_names=channel_names,
        target_names=target_names,
        file_ending=words.file_ending,
        cases=tuple(cases),
        findings=tuple(findings),
    )


# ---------------------------------------------------------------- dataset.json

_NNUNET_ONLY = {
    "labels": "target_names",
    "regions_class_order": "target_names",
    "modality": "channel_names",
    "tensorImageSize": None,
}


def _read_json(folder: Path) -> DatasetJson:
    path = folder / "dataset.json"
    data = read_json(
        path, remedy="write a valid dataset.json in this folder: see documentation/reference/dataset_format.md"
    )
    foreign = [key for key in _NNUNET_ONLY if isinstance(data, dict) and key in data]
    if foreign:
        key, instead = foreign[0], _NNUNET_ONLY[foreign[0]]
        raise NndiffError(
            f"dataset.json: '{key}' is a key of nnU-Net's segmentation datasets; nndiff does not read it.",
            where=path,
            remedy=f'remove "{key}" and write "{instead}" instead' if instead else f'remove "{key}"',
        )
    try:
        words = strict_json.decode(DatasetJson, data)
    except NndiffError as error:
        raise error.at(path, prefix="dataset.json: ") from None
    if words.file_ending not in FILE_ENDINGS:
        raise NndiffError(
            "dataset.json: nndiff does not read files with this file_ending.",
            expected="one of " + " ".join(FILE_ENDINGS),
            found=words.file_ending,
            where=path,
            remedy="correct file_ending, or convert the files",
        )
    return words


def _names(names: dict[str, str], key: str, folder: Path) -> tuple[str, ...]:
    expected = [str(i) for i in range(len(names))]
    if sorted(names, key=lambda text: (len(text), text)) != expected:
        raise NndiffError(
            f"dataset.json: the channels in {key} must be numbered from 0 without gaps.",
            expected=", ".join(expected) or '"0"',
            found=", ".join(names),
            where=folder / "dataset.json",
            remedy=f'write number and name, as nnU-Net v2 does: "{key}": {{"0": "PET", "1": "CT"}}',
        )
    return tuple(names[key] for key in expected)


def _task(words: DatasetJson, folder: Path) -> str:
    task = words.task or ("translation" if words.channel_names else "generation")
    where = folder / "dataset.json"
    if task not in TASKS:
        raise NndiffError(
            "dataset.json: nndiff has no such task.",
            expected=" or ".join(TASKS),
            found=task,
            where=where,
            remedy='correct "task", or remove it: without it, nndiff decides by channel_names',
        )
    if task == "translation" and not words.channel_names:
        raise NndiffError(
            "dataset.json: translation needs at least one source channel.",
            expected='"channel_names": {"0": …}',
            found="no channel_names",
            where=where,
            remedy='add channel_names, or write "task": "generation"',
        )
    if task == "generation" and words.channel_names:
        raise NndiffError(
            "dataset.json: a dataset for generation must have no source channels.",
            found=f"channel_names {words.channel_names}",
            where=where,
            remedy='remove channel_names, or write "task": "translation"',
        )
    if not words.target_names:
        raise NndiffError(
            "dataset.json: at least one target channel is needed.",
            expected='"target_names": {"0": …}',
            found="no target_names",
            where=where,
            remedy="add target_names",
        )
    return task


# ---------------------------------------------------------------- files → cases

Channels = dict[str, dict[int, Path]]  # case → channel → file


def _in_place(words: DatasetJson, folder: Path) -> tuple[Channels, Channels, dict[str, Path], list[Finding]]:
    sources: Channels = {}
    targets: Channels = {}
    masks: dict[str, Path] = {}
    findings = []
    for case, row in (words.dataset or {}).items():
        if why := unfit(case):
            findings.append(_unnamed(case, folder / "dataset.json", why))
            continue
        sources[case] = {i: folder / name for i, name in enumerate(row.images)}
        targets[case] = {i: folder / name for i, name in enumerate(row.targets)}
        if row.mask:
            masks[case] = folder / row.mask
        files = [*sources[case].values(), *targets[case].values(), *([masks[case]] if row.mask else [])]
        findings += [
            Finding(
                case,
                str(file),
                "a file that dataset.json lists does not exist.",
                'correct its path under "dataset" in dataset.json',
            )
            for file in files
            if not file.exists()
        ]
        if any(not file.exists() for file in files):
            del sources[case], targets[case]
    return sources, targets, masks, findings


def _from_folders(words: DatasetJson, folder: Path) -> tuple[Channels, Channels, dict[str, Path], list[Finding]]:
    sources, found_sources = _channels(folder / "imagesTr", words.file_ending)
    targets, found_targets = _channels(folder / "targetsTr", words.file_ending)
    masks, found_masks = _masks(folder / "masksTr", words.file_ending)
    findings = found_sources + found_targets + found_masks
    if not words.channel_names and sources:
        findings.append(
            Finding(
                "",
                str(folder / "imagesTr"),
                "A dataset for generation has no source channels, but imagesTr contains files.",
                "remove imagesTr, or add channel_names to dataset.json",
            )
        )
        sources = {}
    findings += [
        Finding(
            case,
            str(masks[case]),
            "the mask has no case of the same name.",
            "remove the mask, or add the case's target",
        )
        for case in sorted(masks.keys() - targets.keys())
    ]
    return sources, targets, masks, findings


def _channels(folder: Path, ending: str) -> tuple[Channels, list[Finding]]:
    channels: Channels = {}
    findings = []
    for path in _visible(folder):
        stem = path.name[: -len(ending)] if path.name.endswith(ending) else ""
        match = CHANNEL.match(stem)
        if match is None:
            findings.append(_rejected(path, ending, "CASE_0000"))
            continue
        if why := unfit(match["case"]):
            findings.append(_unnamed(match["case"], path, why))
            continue
        channels.setdefault(match["case"], {})[int(match["channel"])] = path
    return channels, findings


def _unnamed(case: str, where: Path, why: str) -> Finding:
    remedy = "use letters, digits, - and _: output files are named after the case"
    return Finding(shown(case), shown(str(where)), f"the text cannot be the name of a case: {why}.", remedy)


def _masks(folder: Path, ending: str) -> tuple[dict[str, Path], list[Finding]]:
    masks, findings = {}, []
    for path in _visible(folder):
        if path.name.endswith(ending):
            masks[path.name[: -len(ending)]] = path
        else:
            findings.append(_rejected(path, ending, "CASE"))
    return masks, findings


def _visible(folder: Path) -> list[Path]:
    """Return the files to read, sorted, without hidden and half-written files and the pixel files of .mhd headers."""
    if not folder.is_dir():
        return []
    return [
        p
        for p in sorted(folder.iterdir())
        if p.is_file() and not p.name.startswith((".", PART)) and p.suffix not in (".raw", ".zraw")
    ]


def _rejected(path: Path, ending: str, pattern: str) -> Finding:
    return Finding(
        "",
        shown(str(path)),
        "The file name is not valid.",
        f"rename the file to {pattern}{ending}, or move it to another folder",
    )


def _whole_cases(
    sources: Channels,
    targets: Channels,
    masks: dict[str, Path],
    words: DatasetJson,
    n_source: int,
    n_target: int,
    folder: Path,
) -> tuple[list[Case], list[Finding]]:
    cases, findings = [], []
    for name in sorted(sources.keys() | targets.keys()):
        found = [
            *_channel_findings(name, sources.get(name, {}), n_source, "imagesTr", folder, words),
            *_channel_findings(name, targets.get(name, {}), n_target, "targetsTr", folder, words),
        ]
        findings += found
        if not found:
            source, target = (
                tuple(files.get(name, {})[i] for i in range(n))
                for files, n in ((sources, n_source), (targets, n_target))
            )
            cases.append(
                Case(name=name, group=words.groups.get(name, name), source=source, target=target, mask=masks.get(name))
            )
    findings += [
        Finding(
            name,
            str(folder / "dataset.json"),
            '"groups" in dataset.json lists this case, but the dataset does not contain it.',
            'correct the case name under "groups"',
            severity="warning",
        )
        for name in sorted(words.groups.keys() - sources.keys() - targets.keys() - (words.dataset or {}).keys())
    ]
    return cases, findings


def _channel_findings(
    case: str, files: dict[int, Path], n: int, side: str, folder: Path, words: DatasetJson
) -> Iterable[Finding]:
    key = "channel_names" if side == "imagesTr" else "target_names"
    missing = [i for i in range(n) if i not in files]
    if words.dataset is not None:
        if len(files) != n:
            listed, named = counted(len(files), "file"), counted(n, "channel")
            what = f'"{side.removesuffix("Tr")}" lists {listed}, but {key} names {named}.'
            yield Finding(case, str(folder / "dataset.json"), what, 'correct the case under "dataset" in dataset.json')
        return
    if missing and not files:
        yield Finding(
            case,
            str(folder / side),
            f"the case has no file in {side}.",
            f"add {case}_0000{words.file_ending}, or remove the case's other files",
        )
    else:
        for i in missing:
            yield Finding(
                case,
                str(folder / side / f"{case}_{i:04d}{words.file_ending}"),
                f"the file of channel _{i:04d} is missing.",
                "add the file, or remove the case's other files",
            )
    for i in sorted(files.keys() - set(range(n))):
        yield Finding(
            case,
            str(files[i]),
            f"the file is channel _{i:04d}, but {key} names {counted(n, 'channel')}, numbered from 0.",
            f'add "{i}" to {key}, or remove the file',
        )


def _patient_findings(words: DatasetJson, cases: list[Case], folder: Path) -> list[Finding]:
    visits = [] if words.groups else of_one_patient(case.name for case in cases)
    if not visits:
        return []
    alike, remedy = f"{visits[0]} and {visits[1]}", 'name the patient of each case under "groups"'
    what = f"{alike} seem to be scans of one patient, but count as two: held-out cases would not be new patients."
    place = str(folder / "dataset.json")
    return [Finding("", place, what, f"{remedy} (nndiff_convert: mark {{patient}})", severity="warning")]


def _count_findings(words: DatasetJson, cases: list[Case], folder: Path) -> list[Finding]:
    if not cases:
        expected = " and ".join(
            f"{side}/CASE_0000{words.file_ending}"
            for side in (["imagesTr"] if words.channel_names else []) + ["targetsTr"]
        )
        return [Finding("", str(folder), "The dataset has no complete case.", f"add files named {expected}")]
    if words.numTraining is not None and words.numTraining != len(cases):
        remedy = "correct numTraining, or remove it: nndiff does not need it"
        return [
            Finding(
                "",
                str(folder / "dataset.json"),
                f"numTraining is {words.numTraining}, but the number of complete cases is {len(cases)}.",
                remedy,
                severity="warning",
            )
        ]
    return []


def _place(finding: Finding) -> str:
    return f"Case {finding.case}: " if finding.case else ""
