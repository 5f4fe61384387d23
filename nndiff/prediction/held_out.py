"""The cases that a trained fold has not seen, and their translation by this fold alone.

    results/DATASET/CONFIG/fold_K ─▶ results/DATASET/CONFIG/crossval/fold_K      volumes and predict.json

A case is held out if neither it nor another case of its patient is a training case of the fold. Volumes that were made
with the same weights, sampler and seed, from files that have not changed since, are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nndiff import checkpoint
from nndiff.checkpoint import BEST
from nndiff.folds import FOLD, chosen
from nndiff.prediction import pipeline
from nndiff.prediction.record import how_made
from nndiff.prediction.request import Request
from nndiff.resources.outcomes import CasesFailed
from nndiff.sampling import inference
from nndiff.sampling.inference import digest_of
from nndiff.words.best import demand_pairs
from nndiff.words.dataset import Case, Dataset
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.files import read_json
from nndiff.words.strict_json import encode
from nndiff.words.telling import tell

CROSSVAL, RECORD = "crossval", "predict.json"
SEED = 0


@dataclass(frozen=True)
class HeldOut:
    """A trained fold with the cases that it has not seen."""

    folder: Path  # results/DATASET/CONFIG/fold_K
    cases: tuple[Case, ...]
    kinds: tuple[str, ...]  # modalities of the target channels
    prediction_bytes: int  # predicted by the plan
    made: dict[str, Any]  # how its volumes are made: model, sampler and seed

    @property
    def fold(self) -> str:
        return self.folder.name.removeprefix(FOLD)

    @property
    def output(self) -> Path:
        return self.folder.parent / CROSSVAL / self.folder.name

    @property
    def label(self) -> str:
        count = "1 held-out case" if len(self.cases) == 1 else f"{len(self.cases)} held-out cases"
        return f"{self.folder.parent.name}, fold {self.fold}: {count}"


def trained(
    results: Path, dataset: Dataset, configurations: Sequence[str] | None = None, folds: Sequence[str] | None = None
) -> dict[str, list[HeldOut]]:
    """Return the folds of each configuration in results/DATASET that have held-out cases.

    A configuration that was named must have such a fold; others without one are left out, and it is printed why.
    """
    there = sorted({path.parent.parent.name for path in results.glob(f"*/{FOLD}*/{BEST}")})
    unknown = [name for name in configurations or () if name not in there]
    if unknown or not there:
        raise NndiffError(
            f"The configuration '{unknown[0]}' has not been trained." if unknown else "No configuration is trained.",
            where=results,
            remedy=nearest(unknown[0], there) if there else "train one first: nndiff_train DATASET CONFIG FOLD",
        )
    found = {}
    for name in dict.fromkeys(configurations or there):
        try:
            found[name] = _folds(results / name, dataset, folds)
        except _NotHeldOut as error:
            if configurations:
                raise
            tell(f"{name} is left out. {error.what}{f' ({error.found})' if error.found else ''}")
    if not found:
        raise NndiffError(
            "No configuration has a fold that can be compared.",
            where=results,
            remedy="train a fold to its end, for example nndiff_train DATASET bridge 0",
        )
    return found


def translate(fold: HeldOut, device: str | None = None, quiet: bool = False) -> None:
    """Translate the held-out cases of a fold that have not been translated; raise an error if all cases failed."""
    record = _record(fold)
    done = _sound(fold, record)
    if len(done) == len(fold.cases):
        tell(f"{fold.label}, translated before")
        return
    tell(fold.label)
    request = Request(
        model=fold.folder,
        files={case.name: case.source for case in fold.cases},
        output=fold.output,
        seed=SEED,
        device=device,
        go_on=record is not None,
        quiet=quiet,
    )
    try:
        pipeline.predict(request)
    except CasesFailed as error:
        if not _sound(fold, _record(fold)):
            raise
        tell(str(error))


class _NotHeldOut(NndiffError):
    """The error that a configuration has no fold to compare."""


def _folds(model: Path, dataset: Dataset, folds: Sequence[str] | None) -> list[HeldOut]:
    try:
        paths, oddities = chosen(model, folds, BEST, allow_unfinished=False)
    except NndiffError as error:
        raise _NotHeldOut(
            error.what, expected=error.expected, found=error.found, where=error.where, remedy=error.remedy
        ) from None
    for line in oddities:
        tell(f"{model.name}: {line}")
    every = [_held_out(path, dataset) for path in paths]
    for fold in every:
        if not fold.cases:
            tell(f"{fold.label}, so it is left out")
    if not any(fold.cases for fold in every):
        raise _NotHeldOut(
            "The folds of this configuration have trained on every case of the dataset.",
            found=", ".join(fold.folder.name for fold in every),
            where=model,
            remedy="train a numbered fold, such as 0: fold all holds no case out",
        )
    return [fold for fold in every if fold.cases]


def _held_out(path: Path, dataset: Dataset) -> HeldOut:
    found = checkpoint.load(path)
    demand_pairs(found.plan.task, path)
    seen = set(found.run.training)
    patients = {case.group for case in dataset.cases if case.name in seen}
    weights = digest_of(found.ema)
    tuned = inference.load(path.parent, path.name, found.planned.sampler, weights)
    model = {"fold": found.run.fold, "step": str(found.step), "weights": weights}
    sampler = encode(found.planned.sampler if tuned is None else tuned.sampler)
    return HeldOut(
        folder=path.parent,
        cases=tuple(case for case in dataset.cases if case.group not in patients and case.name not in seen),
        kinds=tuple(channel.kind.name for channel in found.plan.target_channels),
        prediction_bytes=found.planned.predicted.prediction_bytes,
        made=how_made({"model": [model], "sampler": sampler, "seed": SEED}),
    )


def _record(fold: HeldOut) -> dict[str, Any] | None:
    """Return the record of an earlier translation by the same weights and sampler; None if there is none."""
    path = fold.output / RECORD
    try:
        data = read_json(path)
        return data if isinstance(data, dict) and how_made(data) == fold.made else None
    except (NndiffError, AttributeError, TypeError):  # of an absent or damaged record: all cases are translated anew
        return None


def _sound(fold: HeldOut, record: dict[str, Any] | None) -> list[str]:
    """Return the recorded cases; remove the volumes of those whose files have changed since."""
    sound = []
    for case in fold.cases:
        row = (record or {}).get("cases", {}).get(case.name)
        outputs = [fold.output / name for name in row["outputs"]] if isinstance(row, dict) else []
        if not outputs or not all(path.exists() for path in outputs):
            continue
        if _newest(case.source) > min(path.stat().st_mtime_ns for path in outputs):
            for path in outputs:
                path.unlink()
            continue
        sound.append(case.name)
    return sound


def _newest(paths: Sequence[Path]) -> int:
    return max(path.stat().st_mtime_ns for path in paths)
