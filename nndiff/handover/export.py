"""Export of a trained model into one file: chosen folds, as parts of an archive, with a model card.

    folder ─ finished folds that are one model ─▶ float32 or float16 ─▶ MODEL.zip

Exporting the same model twice gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nndiff import archive, checkpoint, folds
from nndiff.checkpoint import BEST
from nndiff.handover.card import Trained, card
from nndiff.handover.data import data_of
from nndiff.handover.halving import Change, change, rounded
from nndiff.handover.install import verify
from nndiff.words.errors import NndiffError
from nndiff.words.files import atomic
from nndiff.words.paths import demand_zip_name, is_archive


@dataclass(frozen=True)
class Request:
    """A request to export a model."""

    model: Path  # folder of a configuration, or of one of its folds
    output: Path
    folds: tuple[str, ...] | None = None  # None: all whose training has ended
    half: bool = False  # whether weights are stored as float16
    licence: str = ""
    allow_unfinished: bool = False
    configuration: str | None = None  # the expected configuration of the model; None: any
    preprocessed: Path | None = None  # folder of the preprocessed datasets, for the model card


@dataclass(frozen=True)
class Summary:
    """What was exported."""

    path: Path
    bytes: int
    folds: tuple[str, ...]
    changes: tuple[Change, ...]  # per fold, by float16; empty: the weights are exact
    oddities: tuple[str, ...]  # what a user should know about the folds


def export(request: Request) -> Summary:
    """Write the archive, and return what it holds."""
    _demand_sound(request)
    wanted = None if request.folds is None else tuple(dict.fromkeys(request.folds))
    paths, oddities = folds.chosen(request.model, wanted, BEST, request.allow_unfinished)
    saved = [checkpoint.load(path) for path in paths]
    found = [folds.of(each, path) for each, path in zip(saved, paths, strict=True)]
    folds.demand_one_model(found, request.configuration)
    _demand_different(found)
    changes = [change(fold, rounded(fold)) if request.half else None for fold in found]
    trained = [Trained(*each) for each in zip(found, saved, changes, strict=True)]
    text = card(trained, data_of(saved, request.preprocessed), request.licence, oddities)
    with atomic(request.output) as part:
        archive.write(part, _parts(text, trained))
        _demand_readable(part, request.output)
    return Summary(
        path=request.output,
        bytes=request.output.stat().st_size,
        folds=tuple(fold.name for fold in found),
        changes=tuple(each for each in changes if each is not None),
        oddities=tuple(oddities),
    )


def _parts(text: str, trained: list[Trained]) -> Iterator[tuple[str, bytes]]:
    yield archive.CARD, text.encode()
    for each in trained:
        left = checkpoint.steps_left(each.fold.path.parent)
        yield from archive.parts_of(each.fold, max(0, left), half=each.change is not None).items()


def _demand_readable(part: Path, output: Path) -> None:
    """Read the file back, so that no file is handed on that others would be refused."""
    try:
        with archive.opened(part) as parts:
            verify(parts)
    except NndiffError as error:
        remedy = "train the model again with this version of nndiff"
        raise error.at(output, prefix="The exported file could not be read back. ", remedy=remedy) from None


def _demand_sound(request: Request) -> None:
    demand_zip_name(request.output)
    if is_archive(request.model):
        raise NndiffError(
            "This model was exported already.", where=request.model, remedy="copy the file, or export from the training"
        )


def _demand_different(found: list[folds.Fold]) -> None:
    """Refuse two checkpoints of one fold, as in a folder that was copied and renamed."""
    of: dict[str, folds.Fold] = {}
    for fold in found:
        if fold.name in of:
            raise NndiffError(
                "Two folders contain the same fold.",
                found=f"fold {fold.name} in {of[fold.name].path.parent.name} and {fold.path.parent.name}",
                where=fold.path,
                remedy="choose one of them with -f",
            )
        of[fold.name] = fold
