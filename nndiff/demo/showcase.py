"""The results of the demo: a table and a figure, made from the files that its commands have written.

input · best Gaussian filter (fitted to the truth) · nndiff at both ends of its dial · the ceiling
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nndiff.imaging import io
from nndiff.metrics.pet import gaussian
from nndiff.pictures import slices
from nndiff.words.files import atomic, read_json, write_json
from nndiff.words.text_table import text_table

MEASURES = ("PSNR", "SSIM", "texture_dB", "HF_body", "HF_air", "SUVmean_bias", "SUVmax_bias")
HEADS = ("", "PSNR dB", "SSIM", "texture dB", "HF body", "HF air", "SUVmean", "SUVmax", "s/volume")


@dataclass(frozen=True)
class Shown:
    """The folders of one dataset."""

    raw: Path  # raw/Dataset…
    predictions: Mapping[str, Path]  # name of the sampler → its output folder


def figures(shown: Shown) -> dict[str, dict[str, float | None]]:
    """Return {method: {metric: mean over the held-out bodies}}.

    The input and the best Gaussian filter appear once, because they are the same for every prediction.
    """
    rows: dict[str, dict[str, float | None]] = {}
    for name, folder in shown.predictions.items():
        metrics = read_json(folder / "summary.json")["metrics"]
        for method in ("input", "best Gaussian"):
            rows.setdefault(method, _means(metrics[method]))
        cases = read_json(folder / "predict.json")["cases"].values()
        rows[name] = {**_means(metrics["prediction"]), "seconds": _median(case["seconds"]["compute"] for case in cases)}
    return rows


def table(rows: Mapping[str, Mapping[str, float | None]], ceiling: float | None) -> str:
    lines = [list(HEADS)]
    for method, row in rows.items():
        forms = (".2f", ".3f", ".1f", ".2f", ".2f", "+.1%", "+.1%")
        cells = [_cell(row.get(name), form) for name, form in zip(MEASURES, forms, strict=True)]
        lines.append([method, *cells, _cell(row.get("seconds"), ".2f")])
    if ceiling is not None:
        lines.append(["no noise at all", f"{ceiling:.2f}", *[""] * (len(HEADS) - 2)])
    return text_table(lines)


def ceiling(shown: Shown) -> float | None:
    values = list(read_json(shown.raw / "ceiling.json").values())
    return float(np.mean(values)) if values else None


def save(folder: Path, tables: Mapping[str, Mapping[str, Any]]) -> Path:
    path = folder / "figures.json"
    write_json(path, tables)
    return path


def draw(shown: Shown, path: Path, title: str) -> None:
    """Draw the first held-out body: every method beside the truth, on one grey scale."""
    first = next(iter(shown.predictions.values()))
    row = _best_gaussian(first)
    name = f"{row['case']}_0000.nii.gz"
    source = io.read([shown.raw / "imagesTs" / name])
    columns = [
        ("input", source.array[0]),
        ("best Gaussian", gaussian(source.array[0], float(row["FWHM_mm"]), source.grid.spacing)),
    ]
    columns += [(method, io.read([folder / name]).array[0]) for method, folder in shown.predictions.items()]
    truth = io.read([shown.raw / "targetsTs" / name]).array[0]
    error = columns[2][1] - truth
    with atomic(path) as part:
        slices(part, [*columns, ("truth", truth)], error, f"{title}: {row['case']}", source.grid.spacing)


def _best_gaussian(folder: Path) -> dict[str, str]:
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as stream:
        return next(row for row in csv.DictReader(stream) if row["method"] == "best Gaussian")


def _means(channels: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: channels["0"][name]["mean"] if name in channels["0"] else None for name in MEASURES}


def _median(values: Any) -> float:
    return float(np.median(list(values)))


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
