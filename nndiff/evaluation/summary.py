"""Rows → metrics.csv, and summary.json: mean, std, median and the worst case of every figure, with what was assumed."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nndiff.evaluation.scores import Row
from nndiff.resources.workers import Failure
from nndiff.words.files import atomic

# Every figure, and how bad a value of it is: the largest is the worst case. A width is neither good nor bad.
BADNESS: dict[str, Callable[[float], float] | None] = {
    "PSNR": lambda value: -value,
    "SSIM": lambda value: -value,
    "MS_SSIM": lambda value: -value,
    "MAE": lambda value: value,
    "NRMSE": lambda value: value,
    "HF": lambda value: abs(math.log(value)) if value > 0 else math.inf,
    "grid_bias": lambda value: value,
    "grid_imbalance": lambda value: value,
    "grid_excess": lambda value: value,
    "CRPS": lambda value: value,
    "uncertainty_correlation": lambda value: -value,
    "SUVmean_bias": abs,
    "SUVmax_bias": abs,
    "FWHM_mm": None,
}


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """What does not apply is an empty cell, an infinite PSNR is inf, everything else six digits."""
    with atomic(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "channel", "method", "kind", "range_low", "range_high", *BADNESS])
        for row in rows:
            scores = [row.scores.get(name, math.nan) for name in BADNESS]
            cells = ["" if math.isnan(value) else f"{value:.6g}" for value in (*row.bounds, *scores)]
            writer.writerow([row.case, row.channel, row.method, row.kind.name, *cells])


def summarised(rows: Sequence[Row], failures: Sequence[Failure], settings: Mapping[str, Any]) -> dict[str, Any]:
    kinds: dict[str, list[str]] = {}
    groups: dict[str, dict[str, list[Row]]] = {}  # method → channel → rows
    for row in rows:
        channel = str(row.channel)
        groups.setdefault(row.method, {}).setdefault(channel, []).append(row)
        if row.kind.name not in kinds.setdefault(channel, []):
            kinds[channel].append(row.kind.name)
    return {
        "cases": len({row.case for row in rows}),
        "failed": {failure.case: failure.message for failure in failures},
        "settings": {**settings, "kinds": kinds},
        "metrics": {
            method: {channel: _figures(group) for channel, group in channels.items()}
            for method, channels in groups.items()
        },
        "regions": [
            {"case": row.case, "channel": row.channel, "method": row.method, **_plain(asdict(region))}
            for row in rows
            for region in row.regions
        ],
    }


def _figures(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Name → mean, std (of n - 1), median and worst over the cases that have it."""
    figures = {}
    for name, badness in BADNESS.items():
        having = [(row.scores[name], row.case) for row in rows if not math.isnan(row.scores.get(name, math.nan))]
        if not having:
            continue
        values = [value for value, _ in having]
        figure: dict[str, Any] = {
            "cases": len(values),
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None,
            "median": float(np.median(values)),
        }
        if badness is not None:
            figure["worst"], figure["worst_case"] = max(having, key=lambda pair: badness(pair[0]))
        figures[name] = _plain(figure)
    return figures


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN and no infinity: null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in data.items()
    }
