"""The table of all commands, in the order in which they are used; the list of `nndiff` and completion come from it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from nndiff.cli.command import Described

PREFIX = "nndiff_"


@dataclass(frozen=True)
class Row:
    """A command, which exists under its own name (nndiff_train) and as a word after nndiff (nndiff train)."""

    word: str
    does: str  # at most 52 characters, so that the list fits 80 columns
    group: str
    place: str = ""  # of its module; in cli/ under its word where empty

    @property
    def name(self) -> str:
        return PREFIX + self.word

    @property
    def module(self) -> str:
        return self.place or f"nndiff.cli.{self.word}"

    def main(self) -> Callable[[list[str] | None], int]:
        found: Callable[[list[str] | None], int] = importlib.import_module(self.module).main
        return found

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of the command, which does no work for it."""
        asked = Described()
        self.main()(asked)
        assert asked.parser is not None
        return asked.parser


FIRST, DATA, MODEL, RESULT, BESIDE = "First", "Your data", "A model", "New scans", "On a cluster"
ROWS = (
    Row("doctor", "does everything work here? if not, what to do", FIRST),
    Row("demo", "simulate scans, then train and measure on them", FIRST),
    Row("convert", "make a dataset of a folder of scans, by file names", DATA, "dataset_conversion.any_folder"),
    Row("plan_and_preprocess", "the next three in one: check, decide, prepare", DATA),
    Row("extract_fingerprint", "check every file, write the properties of the data", DATA),
    Row("plan", "decide how to train, with the reason of each decision", DATA),
    Row("preprocess", "prepare the cases as planned", DATA),
    Row("train", "train a fold; it ends with tuning", MODEL),
    Row("tune", "choose the sampler of a trained fold", MODEL),
    Row("find_best_configuration", "after several trainings: which one to use", MODEL),
    Row("export_model", "one file of a trained model, to hand it on", MODEL),
    Row("install_model", "check and install such a file", MODEL),
    Row("predict", "translate a folder of scans, or generate volumes", RESULT),
    Row("evaluate", "compare predictions with the truth", RESULT),
    Row("evaluate_generation", "compare generated volumes with real ones", RESULT),
    Row("submit", "submit the steps above as jobs of Slurm", BESIDE),
)
BY_WORD = {row.word: row for row in ROWS}
