"""The split of the cases into training and validation: splits.json, a list of at most five {"train": […], "val": […]}.

Cases of one patient stay together. The file is made once, with a fixed seed, and may be edited by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nndiff.imaging import store
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, write_json
from nndiff.words.strict_json import decode

FOLDS = 5
ALL = "all"
SEED = 12345  # as in nnU-Net; the same split for all users
FILE = "splits.json"


@dataclass(frozen=True)
class Split:
    """The training and validation cases of one fold."""

    train: tuple[str, ...]
    val: tuple[str, ...]


def groups_of(folder: Path) -> dict[str, str]:
    """Return {case: patient} of all prepared cases in preprocessed/DATASET/CONFIGURATION."""
    names = store.cases(folder) if folder.is_dir() else []
    if not names:
        dataset, configuration = folder.parent.name, folder.name
        raise NndiffError(
            f"No case has been preprocessed for configuration {configuration}.",
            where=folder,
            remedy=f"run nndiff_preprocess -d {dataset[7:10]} -c {configuration}",
        )
    return {name: (store.read_record(folder, name) or {}).get("group", name) for name in names}


def split_of(fold: str, folder: Path, groups: Mapping[str, str]) -> Split:
    """Return the split of one fold, and make splits.json if there is none.  groups: {case: patient}."""
    if fold == ALL:
        names = tuple(sorted(groups))
        return Split(names, names)
    path = folder / FILE
    splits = splits_of(folder, groups)
    demand_fold(fold, splits, path)
    if not path.exists():
        write_json(path, [{"train": list(s.train), "val": list(s.val)} for s in splits])
    return splits[int(fold)]


def splits_of(folder: Path, groups: Mapping[str, str]) -> list[Split]:
    """Return the splits of splits.json, or those that it would have."""
    path = folder / FILE
    return read(path, groups) if path.exists() else make(groups)


def demand_fold(fold: str, splits: Sequence[Split], path: Path) -> None:
    if not fold.isdecimal() or int(fold) >= len(splits):
        raise NndiffError(
            f"There is no fold {fold}.",
            expected=f"0 to {len(splits) - 1} ({FILE} has {len(splits)}), or {ALL}" if splits else ALL,
            found=fold,
            where=path,
            remedy=f"train fold {ALL}, because a single patient cannot be split" if not splits else None,
        )


def make(groups: Mapping[str, str]) -> list[Split]:
    """Return as many splits as there are patients, but at most five; none for a single patient."""
    patients = sorted(set(groups.values()))
    count = min(FOLDS, len(patients))
    if count < 2:
        return []
    order = np.random.default_rng(SEED).permutation(len(patients))
    held = [{patients[k] for k in order[i::count]} for i in range(count)]
    return [
        Split(
            tuple(sorted(case for case, patient in groups.items() if patient not in out)),
            tuple(sorted(case for case, patient in groups.items() if patient in out)),
        )
        for out in held
    ]


def read(path: Path, groups: Mapping[str, str]) -> list[Split]:
    """Return the splits in the file; refuse a file that is invalid, for example after editing by hand."""
    splits = list(decode(tuple[Split, ...], read_json(path), FILE))
    for i, split in enumerate(splits):
        _demand_known(split, groups, path)
        both = {groups[case] for case in split.train} & {groups[case] for case in split.val}
        if both:
            raise NndiffError(
                f"Fold {i} has the same patient in training and in validation.",
                found=", ".join(sorted(both)[:3]),
                where=path,
                remedy="move all cases of the patient to training or to validation",
            )
        if not split.train or not split.val:
            raise NndiffError(
                f"Fold {i} has no training case or no validation case.",
                where=path,
                remedy="add cases to it, or train fold all",
            )
    return splits


def _demand_known(split: Split, groups: Mapping[str, str], path: Path) -> None:
    named = [*split.train, *split.val]
    strangers, missing = sorted(set(named) - set(groups)), sorted(set(groups) - set(named))
    if strangers or missing:
        raise NndiffError(
            f"{FILE} does not match the preprocessed cases.",
            expected="each preprocessed case in every fold",
            found=_named("not preprocessed", strangers) + _named("in no fold", missing),
            where=path,
            remedy="correct the file, or delete it to create new folds; to exclude a case, move it out of raw",
        )


def _named(what: str, cases: Sequence[str]) -> str:
    return f"{what}: {', '.join(cases[:5])}{', …' if len(cases) > 5 else ''} " if cases else ""
