"""What a model card says of the training data: numbers and ranges, no names.

The checkpoints know how many cases were trained on. The fingerprint of the dataset knows patients, spacings, shapes and
intensities; it is used only if it still describes the data of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from nndiff.checkpoint import Checkpoint, seen_of
from nndiff.plans.plan import load
from nndiff.words.errors import NndiffError
from nndiff.words.fingerprint import ChannelStatistics, Fingerprint
from nndiff.words.volume import Spacing, Triple

N = TypeVar("N", int, float)

FILE = "fingerprint.json"


@dataclass(frozen=True)
class Measured:
    """The cases that any of the folds was trained on, from the fingerprint. Ranges are pairs: lowest, highest."""

    patients: int
    spacings: tuple[Spacing, Spacing]  # per axis
    shapes: tuple[Triple, Triple]
    targets: tuple[tuple[str, float, float], ...]  # name, and the range of P99.99


@dataclass(frozen=True)
class Data:
    """The training data of a model."""

    cases: int  # that any of the folds was trained on
    measured: Measured | None
    unknown: str = ""  # why nothing is measured


def data_of(saved: Sequence[Checkpoint], preprocessed: Path | None) -> Data:
    """Return what is known of the training data; `preprocessed` is the folder of all preprocessed datasets."""
    names = {case for each in saved for case in each.run.training}
    if preprocessed is None:
        return Data(len(names), None, "the folder of the preprocessed datasets is not set")
    path = preprocessed / saved[0].plan.dataset / FILE
    try:
        found = load(Fingerprint, path)
    except NndiffError as error:
        return Data(len(names), None, f"{FILE}: {error.what}")
    if not names <= {case.name for case in found.cases} or seen_of(found) != saved[0].seen:
        return Data(len(names), None, f"{FILE} describes other data than those of the training")
    return Data(len(names), _measured(found, names))


def _measured(found: Fingerprint, names: set[str]) -> Measured:
    cases = [case for case in found.cases if case.name in names]
    spacings, shapes = [case.spacing for case in cases], [case.shape for case in cases]
    return Measured(
        patients=len({case.group for case in cases}),
        spacings=(_each(min, spacings), _each(max, spacings)),
        shapes=(_each(min, shapes), _each(max, shapes)),
        targets=tuple(
            (name, *_peaks([case.target[channel] for case in cases])) for channel, name in enumerate(found.target_names)
        ),
    )


def _each(end: Callable[[Iterable[N]], N], triples: Sequence[tuple[N, N, N]]) -> tuple[N, N, N]:
    """Return the lowest or the highest value of each axis."""
    z, y, x = zip(*triples, strict=True)
    return end(z), end(y), end(x)


def _peaks(rows: Sequence[ChannelStatistics]) -> tuple[float, float]:
    peaks = [row.peak for row in rows]
    return min(peaks), max(peaks)
