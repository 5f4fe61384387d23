"""The contents of best.json: the comparison of a dataset's trained configurations on cases they did not train on.

nndiff_find_best_configuration ─▶ results/DATASET/best.json ─▶ nndiff_predict -d DATASET -c best
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, write_json
from nndiff.words.strict_json import decode, encode

FILE, NAME = "best.json", "best"  # the file, and the name of a configuration that stands for it
REMEDY = "run nndiff_find_best_configuration first, or name a configuration with -c"


@dataclass(frozen=True)
class Averages:
    """Mean figures of several cases, in the units of the target."""

    score: float  # PSNR + 20·SSIM
    psnr: float
    ssim: float
    mae: float
    texture_db: float | None  # None if it could not be measured


@dataclass(frozen=True)
class Fold:
    """A fold, and its figures on all cases that it did not train on, shared with other configurations or not."""

    fold: str
    weights: str  # hash of the weights in checkpoint_best.pt
    step: int  # at which they were saved
    steps: int  # of the training
    cases: int
    figures: Averages | None  # None without such a case


@dataclass(frozen=True)
class Row:
    """One configuration."""

    configuration: str
    folds: tuple[Fold, ...]
    figures: Averages  # on the shared cases; each patient has the same weight
    over_folds: Averages  # mean over the folds of their own figures; each fold has the same weight
    seconds: float  # median per shared case, of one fold
    prediction_bytes: int  # predicted by the plan
    difference: float  # score minus that of the best configuration
    interval: tuple[float, float] | None  # of the difference, 95 %; None for the best, and with a single patient

    @property
    def clearly_worse(self) -> bool:
        return self.interval is not None and self.interval[1] < 0


@dataclass(frozen=True)
class Best:
    """The comparison, and the configuration and folds that it advises."""

    configuration: str
    folds: tuple[str, ...]
    advice: str
    rows: tuple[Row, ...]  # the best first
    cases: dict[str, str]  # the shared cases → their patients
    left_out: dict[str, str]  # the other cases → the reasons
    devices: tuple[str, ...]  # on which seconds were measured
    versions: dict[str, str] = field(default_factory=dict)  # of the software that compared

    @property
    def weights(self) -> dict[str, str]:
        """The hashes of the weights of the best configuration: fold → hash."""
        (row,) = (row for row in self.rows if row.configuration == self.configuration)
        return {fold.fold: fold.weights for fold in row.folds}


def demand_pairs(task: str, where: Path) -> None:
    """Refuse models that generate: there is no truth to compare their volumes with."""
    if task == "generation":
        raise NndiffError(
            "Configurations that generate volumes cannot be compared with a truth.",
            expected="the task translation",
            found=task,
            where=where,
            remedy="measure each of them with nndiff_evaluate_generation DATASET CONFIG FOLD GENERATED -o OUT",
        )


def save(folder: Path, best: Best) -> Path:
    write_json(folder / FILE, encode(best))
    return folder / FILE


def load(folder: Path) -> Best:
    """Return the comparison in results/DATASET; refuse one whose best configuration or folds no longer exist."""
    path = folder / FILE
    data = read_json(path, REMEDY)
    try:
        best = decode(Best, data)
    except NndiffError as error:
        raise error.at(path, remedy="run nndiff_find_best_configuration again") from None
    if [row.configuration for row in best.rows].count(best.configuration) != 1:
        raise NndiffError(
            f"{FILE} has no row of the configuration that it advises.",
            found=best.configuration,
            where=path,
            remedy="run nndiff_find_best_configuration again",
        )
    model = folder / best.configuration
    gone = [fold for fold in best.folds if not (model / f"fold_{fold}").is_dir()]
    if gone or not model.is_dir():
        raise NndiffError(
            f"A model that {FILE} names no longer exists.",
            found=f"no fold_{gone[0]}" if model.is_dir() else "no folder of the configuration",
            where=model,
            remedy="run nndiff_find_best_configuration again, or name a configuration with -c",
        )
    return best
