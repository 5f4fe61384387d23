"""Measure the volumes that a fold made of its held-out cases, and read what there is to compare.

    crossval/fold_K/predict.json, volumes ─▶ metrics.csv, summary.json ─▶ Trial

Measurements are kept as long as they hold the same cases and no file is newer than they are.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nndiff.evaluation import evaluate_cases
from nndiff.evaluation.cases import Case
from nndiff.evaluation.comparison import Trial
from nndiff.evaluation.scores import PREDICTION
from nndiff.sampling.scoring import Figures, mean_of
from nndiff.words import dataset
from nndiff.words.crew import Workers
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json

TABLE, SUMMARY, RECORD = "metrics.csv", "summary.json", "predict.json"
COLUMNS = {"psnr": "PSNR", "ssim": "SSIM", "mae": "MAE", "texture_db": "texture_dB"}


def measured(
    folder: Path, fold: str, cases: Sequence[dataset.Case], kinds: Sequence[str], workers: Workers = None
) -> Trial:
    """Return the figures of a fold on its held-out cases, from the files in `folder`; measure them first if needed."""
    record = read_json(folder / RECORD)
    rows: Mapping[str, Any] = record["cases"]
    found = [_case(case, folder, rows[case.name]["outputs"]) for case in cases if case.name in rows]
    translated = [case for case in found if all(path.exists() for path in case.prediction)]
    if not _up_to_date(folder, translated):
        evaluate_cases(translated, folder, kinds, workers)
    failures = record["failures"] | read_json(folder / SUMMARY)["failed"]
    names = {case.name for case in translated}
    figures = {name: each for name, each in read(folder / TABLE).items() if name in names}
    (model,) = record["model"]
    return Trial(
        fold=fold,
        weights=model["weights"],
        step=int(model["step"]),
        steps=int(model["steps"]),
        device=record["device"],
        figures=figures,
        seconds={name: rows[name]["seconds"]["compute"] for name in figures},
        failed={case.name: failures[case.name] for case in cases if case.name in failures.keys() - figures.keys()},
    )


def read(path: Path) -> dict[str, Figures]:
    """Return the figures of every case's prediction in a metrics.csv, means over the channels."""
    found: dict[str, list[dict[str, float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                if row["method"] == PREDICTION:
                    values = {name: float(row[column] or math.nan) for name, column in COLUMNS.items()}
                    found.setdefault(row["case"], []).append(values)
    except (KeyError, TypeError, ValueError) as error:
        raise NndiffError(
            f"{path.name} is not a table of metrics.",
            found=str(error),
            where=path,
            remedy="delete it, and run the same command again",
        ) from None
    return {
        case: Figures(**{name: mean_of([row[name] for row in rows]) for name in COLUMNS})
        for case, rows in found.items()
    }


def _case(case: dataset.Case, folder: Path, outputs: Sequence[str]) -> Case:
    return Case(
        name=case.name,
        truth=case.target,
        prediction=tuple(folder / name for name in outputs),
        samples=((),) * len(case.target),
        uncertainty=(None,) * len(case.target),
        source=None,
        mask=case.mask,
        regions=None,
    )


def _up_to_date(folder: Path, cases: Sequence[Case]) -> bool:
    """Return whether the table holds these cases and is newer than all files that it was measured from."""
    table = folder / TABLE
    if not table.exists() or not (folder / SUMMARY).exists():
        return False
    files = [path for case in cases for path in (*case.truth, *case.prediction, *([case.mask] if case.mask else []))]
    newest = max(path.stat().st_mtime_ns for path in files)
    return {case.name for case in cases} <= read(table).keys() and newest <= table.stat().st_mtime_ns
