"""The contents of predict.json: how the volumes beside it were made; a later run with the same settings can continue.

The record is written after every case, so that an interrupted prediction can be continued.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nndiff.plans import migrate
from nndiff.plans.channels import Channel
from nndiff.plans.plan import digest
from nndiff.prediction.models import Trained
from nndiff.prediction.request import Request
from nndiff.resources.outcomes import Failure
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, write_json
from nndiff.words.strict_json import encode
from nndiff.words.version import versions

RECORD = re.compile(r"predict(_part_\d+_of_\d+)?\.json")


@dataclass
class Summary:
    """The summary of a prediction, which the caller receives."""

    record: Path
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    paths: dict[str, list[Path]] = field(default_factory=dict)  # case → its volumes, one per target channel
    seconds: dict[str, float] = field(default_factory=dict)  # case → for its computation

    def warned(self) -> list[str]:
        return [f"Warning: {case}: {line}" for case, lines in self.warnings.items() for line in lines]


class Record:
    """The record of a running prediction, in the file and in the summary."""

    def __init__(self, path: Path, begun: dict[str, Any]):
        self.summary, self.data = Summary(path), begun
        self.known: dict[str, Any] = {}  # cases that earlier predictions recorded
        self.clock = time.perf_counter()

    def take_over(self) -> None:
        """Learn which cases earlier predictions recorded, as a whole or in parts; refuse one with other settings."""
        for path in records_in(self.summary.record.parent):
            cases = self._cases_of(path)
            self.known |= cases
            if path == self.summary.record:
                self.data["cases"] |= cases

    def begin_anew(self) -> None:
        """Remove the records of parts, whose volumes a prediction of all cases replaces."""
        for path in records_in(self.summary.record.parent):
            if path != self.summary.record:
                path.unlink(missing_ok=True)

    def _cases_of(self, path: Path) -> dict[str, Any]:
        before = read_json(path)
        if not _is_record(before):
            raise NndiffError(
                f"{path.name} is not the record of a prediction.",
                where=path,
                remedy="delete it, and run the same command again; all cases are then predicted anew",
            )
        try:
            there = how_made(before)
        except NndiffError as error:
            raise error.at(path) from None
        for key, value in how_made(self.data).items():
            if there[key] != value:
                raise NndiffError(
                    f"The existing outputs were made with another {key}.",
                    expected=value,
                    found=there[key],
                    where=path,
                    remedy="choose another output folder, or leave out --continue_prediction to replace the outputs",
                )
        cases: dict[str, Any] = before.get("cases", {})
        return cases

    def holds(self, case: str) -> bool:
        """Return whether an earlier run with the same settings recorded the case; files alone do not count."""
        return case in self.known

    def skip(self, cases: Sequence[str]) -> None:
        self.summary.skipped += cases
        self.data["cases"] |= {case: self.known[case] for case in cases}

    def warn(self, case: str, lines: list[str]) -> None:
        self.summary.warnings[case] = lines

    def fail(self, failure: Failure) -> None:
        self.summary.failures.append(failure)
        self.data["failures"][failure.case] = failure.message

    def finish(self, case: str, outcome: dict[str, Any] | Failure) -> None:
        """Add the entry or the failure of the case, and write the file."""
        if isinstance(outcome, Failure):
            self.fail(outcome)
        else:
            self.summary.done.append(case)
            self.summary.paths[case] = [self.summary.record.parent / name for name in outcome["outputs"]]
            self.summary.seconds[case] = outcome["seconds"]["compute"]
            self.data["cases"][case] = outcome
        self.write()

    def write(self) -> None:
        self.data["seconds"] = round(time.perf_counter() - self.clock, 2)
        write_json(self.summary.record, self.data)


def records_in(folder: Path) -> list[Path]:
    """Return the records of a folder of predictions: one of the whole, one per part, or both."""
    return sorted(path for path in folder.glob("predict*.json") if RECORD.fullmatch(path.name))


def begun_record(request: Request, trained: Trained, sampler: SamplerPlan, device: torch.device) -> dict[str, Any]:
    """Return the record of the settings, before the first case."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type
    return {
        "versions": versions(),
        "command": [word if request.record_paths else without_folders(word) for word in sys.argv],
        "dataset": trained.plan.dataset,
        "channel_names": _names(trained.plan.source_channels),
        "target_names": _names(trained.plan.target_channels),
        "configuration": trained.configuration,
        "plan": digest(trained.plan),
        "model": [
            source | {"checkpoint": source["checkpoint"] if request.record_paths else _in_fold(source["checkpoint"])}
            for source in trained.sources
        ],
        "puzzle_factor": list(trained.model.configuration.puzzle_factor),
        "precision": trained.model.configuration.precision,
        "sampler": encode(sampler),
        "uncertainty_factor": trained.spread_scale(sampler),
        "seed": request.seed,
        "device": f"{device.type}: {name}",
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": 0.0,
        "cases": {},
        "failures": {},
    }


def without_folders(word: str) -> str:
    """Return a word of a command line; of an absolute path the last part: folders can name people and machines."""
    flag, sign, value = word.partition("=")
    if sign and flag.startswith("-"):
        return f"{flag}={without_folders(value)}"
    return f"…/{Path(word).name}" if Path(word).is_absolute() else word


def _in_fold(path: str) -> str:
    """Return the path of a checkpoint within its model."""
    return str(Path(*Path(path).parts[-2:]))


def _is_record(data: Any) -> bool:
    """Return whether JSON has what is taken over from a record."""
    if not isinstance(data, dict) or not isinstance(data.get("cases", {}), dict):
        return False
    model, sampler = data.get("model", []), data.get("sampler")
    folds = isinstance(model, list) and all(isinstance(fold, dict) for fold in model)
    return folds and isinstance(sampler, dict | None)


def how_made(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that must be equal for a run to be continued: model (not its location), sampler and seed."""
    known = ("fold", "step", "weights")
    model = [{key: fold.get(key) for key in known} for fold in record.get("model", [])]
    sampler: Any = record.get("sampler")
    if migrate.is_old_sampler(sampler):
        sampler = migrate.sampler(sampler)
    return {"model": model, "sampler": sampler, "seed": record.get("seed")}


def _names(channels: Sequence[Channel]) -> dict[str, str]:
    """Return the names as dataset.json has them."""
    return {str(number): channel.name for number, channel in enumerate(channels)}
