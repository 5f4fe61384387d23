"""Compare predictions with the truth: metrics.csv (one row per case, channel and method) and summary.json.

    folders ─ cases ─▶ the files of each case ─ scores ─▶ rows ─ summary ─▶ two files

Two baselines are measured in the same way: the `input` of the prediction, and the `best Gaussian`, the filter of the
input with the highest PSNR, which is chosen with the truth. A model that is not better than both is not worth its cost.
An input in other units than the truth's (PET and CT, T1 and FLAIR) is no baseline: the summary says why it is left out.

A case that cannot be compared is reported as a failure and never repaired: a missing file, another grid, NaN or
infinite voxels. documentation/reference/metrics.md explains the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nndiff.evaluation.cases import Case, Folders
from nndiff.evaluation.scores import Named, Row, Scorer, bytes_each
from nndiff.evaluation.summary import summarised, write_table
from nndiff.resources.outcomes import Failure, demand_success
from nndiff.resources.workers import run
from nndiff.words.crew import Workers
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.files import demand_writable, read_json, write_json
from nndiff.words.kind import KINDS, SYNTHRAD_RANGES, Kind, kind_of
from nndiff.words.version import versions
from nndiff.words.volume import Triple

AUTO, EDITION = "auto", "2025"
PUZZLE_FACTOR: Triple = (2, 2, 2)  # if neither the caller nor predict.json gives one
BOUNDS_RULE = "min(0, the truth's minimum) to the truth's maximum, per volume and channel"


@dataclass(frozen=True)
class Evaluation:
    """The results that were written, and the cases that failed. After showing the results, call `demand_success`."""

    folder: Path
    rows: tuple[Row, ...]
    summary: dict[str, Any]
    failures: tuple[Failure, ...]
    total: int

    def demand_success(self) -> None:
        demand_success(self.failures, self.total, "Evaluate")


def evaluate(
    truth_folder: Path,
    prediction_folder: Path,
    output_folder: Path,
    input_folder: Path | None = None,
    mask_folder: Path | None = None,
    region_folder: Path | None = None,
    *,
    input_channel: int = 0,
    kinds: str | Sequence[str] = AUTO,
    edition: str = EDITION,
    puzzle_factor: Triple | None = None,
    workers: Workers = None,
) -> Evaluation:
    """Compare every case, write metrics.csv and summary.json into `output_folder`, and return the results.

    `kinds`: names of KINDS or "auto", one for all channels or one per channel. Cases that fail are listed in `failures`
    and in summary.json; an error about them is raised here only if all cases fail.
    """
    _demand_edition(edition)
    factor = puzzled_by(puzzle_factor, prediction_folder)
    record = _record(prediction_folder)
    truth = _described("target_names", truth_folder.absolute().parent / "dataset.json", record)
    sources: tuple[Named, ...] = ()
    if input_folder is not None:
        sources = _described("channel_names", input_folder.absolute().parent / "dataset.json", record)
    source = sources[input_channel] if input_channel < len(sources) else None
    scorer = Scorer(_channel_kinds(kinds, truth), edition, factor, truth, source)
    folders = Folders.read(truth_folder, prediction_folder, input_folder, mask_folder, region_folder)
    cases, failures = folders.cases(input_channel)
    settings = _settings(folders.paths, scorer, input_channel if input_folder else None)
    return _evaluated(scorer, cases, failures, output_folder, settings, workers)


def evaluate_cases(
    cases: Sequence[Case], output_folder: Path, kinds: Sequence[str], workers: Workers = None
) -> Evaluation:
    """Compare cases whose files are known, otherwise as `evaluate`; the predictions are those in `output_folder`."""
    scorer = Scorer(_channel_kinds(kinds, ()), EDITION, puzzled_by(None, output_folder))
    settings = _settings({"prediction": str(output_folder)}, scorer, None)
    return _evaluated(scorer, cases, [], output_folder, settings, workers)


def _evaluated(
    scorer: Scorer,
    cases: Sequence[Case],
    failures: list[Failure],
    output_folder: Path,
    settings: Mapping[str, Any],
    workers: Workers,
) -> Evaluation:
    total = len(cases) + len(failures)
    demand_writable(output_folder)
    rows: list[Row] = []
    for _, outcome in run(scorer, cases, workers, bytes_each(cases), "Evaluate"):
        if isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            rows += outcome
    if not rows:
        demand_success(failures, total, "Evaluate")
    rows.sort(key=lambda row: (row.case, row.channel))
    failures.sort(key=lambda failure: failure.case)
    summary = summarised(rows, failures, settings)
    write_table(output_folder / "metrics.csv", rows)
    write_json(output_folder / "summary.json", summary)
    return Evaluation(folder=output_folder, rows=tuple(rows), summary=summary, failures=tuple(failures), total=total)


def _settings(folders: Mapping[str, str | None], scorer: Scorer, input_channel: int | None) -> dict[str, Any]:
    return {
        "versions": versions(),
        "folders": dict(folders),
        "input_channel": input_channel,
        "edition": scorer.edition,
        "bounds": _bounds_rules(scorer.edition),
        "puzzle_factor": list(scorer.puzzle_factor),
    }


def _bounds_rules(edition: str) -> dict[str, str]:
    """Return joined names of kinds → a description of the range in which their metrics are computed."""
    names: dict[str, list[str]] = {}
    for kind in KINDS.values():
        names.setdefault(_bounds_rule(kind, edition), []).append(kind.name)
    return {", ".join(together): rule for rule, together in names.items()}


def _bounds_rule(kind: Kind, edition: str) -> str:
    bounds = kind.range_of(edition)
    if bounds is None:
        return BOUNDS_RULE
    whose = f" (SynthRAD {edition})" if edition in kind.metric_ranges else ""
    return f"{bounds[0]:g} to {bounds[1]:g} {kind.units}{whose}"


def _demand_edition(edition: str) -> None:
    if edition not in SYNTHRAD_RANGES:
        raise NndiffError(
            "nndiff has no range of this SynthRAD edition.", expected=" or ".join(SYNTHRAD_RANGES), found=edition
        )


def _channel_kinds(kinds: str | Sequence[str], truth: Sequence[Named]) -> tuple[Kind | None, ...]:
    """Return the requested kinds; "auto" stands for those of the described channels, else for None."""
    asked = tuple(map(_asked, (kinds,) if isinstance(kinds, str) else kinds))
    return (*(channel.kind for channel in truth), None) if asked == (None,) and truth else asked


def _described(side: str, *descriptions: Path) -> tuple[Named, ...]:
    """Return the channels that the first of the files that is there describes, in order."""
    there = [path for path in descriptions if path.is_file()]
    words = read_json(there[0]) if there else None
    names = words.get(side) if isinstance(words, dict) else None
    if not isinstance(names, dict) or not all(key.isdecimal() for key in names):
        return ()
    return tuple(Named(str(names[key]), kind_of(str(names[key]))) for key in sorted(names, key=int))


def _record(folder: Path) -> Path:
    """Return the record of the predictions: one of the parts if the work was split, as all are of one model."""
    return min(folder.glob("predict*.json"), default=folder / "predict.json")


def _asked(name: str) -> Kind | None:
    if name not in (*KINDS, AUTO):
        raise NndiffError(f"There is no modality '{name}'.", remedy=nearest(name, (*KINDS, AUTO)))
    return None if name == AUTO else KINDS[name]


def puzzled_by(asked: Sequence[int] | None, prediction_folder: Path) -> Triple:
    """Return the requested puzzle factor, otherwise the one in predict.json, otherwise the default."""
    record, factor = _record(prediction_folder), asked
    if factor is None and record.is_file():
        words = read_json(record)
        factor = words.get("puzzle_factor") if isinstance(words, dict) else None
    if factor is None:
        return PUZZLE_FACTOR
    if not isinstance(factor, Sequence) or len(factor) != 3 or not all(type(r) is int and r >= 1 for r in factor):
        raise NndiffError(
            "The puzzle factor is not valid.",
            expected="three whole numbers of at least 1, along z, y and x",
            found=factor,
            where=record if asked is None else None,
            remedy="pass --puzzle_factor Z Y X",
        )
    z, y, x = factor
    return z, y, x
