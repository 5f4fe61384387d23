"""Write all rows to metrics.csv, and summarise them for summary.json: mean, std, median and worst case per metric."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nndiff.evaluation.scores import Row
from nndiff.metrics.table import METRICS
from nndiff.resources.outcomes import Failure
from nndiff.words.files import atomic


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write one line per row: six digits, inf for an infinite PSNR, an empty cell for metrics that have no value."""
    names = [metric.name for metric in METRICS.values()]
    with atomic(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "channel", "method", "kind", "range_low", "range_high", *names])
        for row in rows:
            scores = [row.scores.get(name, math.nan) for name in names]
            cells = ["" if math.isnan(value) else f"{value:.6g}" for value in (*row.bounds, *scores)]
            writer.writerow([row.case, row.channel, row.method, row.kind.name, *cells])


def summarised(rows: Sequence[Row], failures: Sequence[Failure], settings: Mapping[str, Any]) -> dict[str, Any]:
    kinds: dict[str, list[str]] = {}
    apart: dict[str, str] = {}  # channel → why the input is not compared
    groups: dict[str, dict[str, list[Row]]] = {}  # method → channel → rows
    for row in rows:
        channel = str(row.channel)
        groups.setdefault(row.method, {}).setdefault(channel, []).append(row)
        if row.apart:
            apart.setdefault(channel, row.apart)
        if row.kind.name not in kinds.setdefault(channel, []):
            kinds[channel].append(row.kind.name)
    return {
        "cases": len({row.case for row in rows}),
        "failed": {failure.case: failure.message for failure in failures},
        "settings": {**settings, "kinds": kinds, "input_not_compared": apart},
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
    """Return metric → mean, std (divisor n - 1), median and worst case, over the cases that have a value."""
    figures = {}
    for metric in METRICS.values():
        scores = [(row.scores.get(metric.name, math.nan), row.case) for row in rows]
        having = [(value, case) for value, case in scores if not math.isnan(value)]
        if not having:
            continue
        values = [value for value, _ in having]
        figure: dict[str, Any] = {
            "cases": len(values),
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None,
            "median": float(np.median(values)),
        }
        if metric.badness is not None:
            badness = [metric.badness(value) for value in values]
            figure["worst"], figure["worst_case"] = having[int(np.argmax(badness))]
        figures[metric.name] = _plain(figure)
    return figures


def _plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data with None for NaN and infinity, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in data.items()
    }
