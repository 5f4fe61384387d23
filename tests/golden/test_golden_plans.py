"""Whole plans for invented datasets, kept as the text a person reads, and reviewed by eye when they change.

`NNDIFF_UPDATE_GOLDEN=1 make test` writes them anew; the diff is what there is to review.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nndiff.cli.tables import plan_table
from nndiff.methods import configurations
from nndiff.planning.planner import plan
from nndiff.words.fingerprint import Fingerprint
from tests.planning.fingerprints import GOLDEN, budget

PLANS = Path(__file__).parent / "plans"


@pytest.mark.parametrize("gigabytes", [8, 24, 80])
@pytest.mark.parametrize("name", GOLDEN)
def test_the_plan_is_the_one_that_was_reviewed(name: str, gigabytes: int) -> None:
    fingerprint = GOLDEN[name]
    demand_reviewed(fingerprint, gigabytes, configurations(fingerprint.task), f"{name}_{gigabytes}GB.txt")


@pytest.mark.parametrize("name", ["brain_mr", "thick_slice_mr"])
def test_the_plan_of_a_transformer_is_the_one_that_was_reviewed(name: str) -> None:
    demand_reviewed(GOLDEN[name], 24, ("prdit", "prdit_lowres"), f"{name}_24GB_prdit.txt")


def demand_reviewed(fingerprint: Fingerprint, gigabytes: int, names: tuple[str, ...], file: str) -> None:
    text = plan_table(plan(fingerprint, budget(gigabytes), names), names, verbose=True, width=110) + "\n"
    path = PLANS / file
    if os.environ.get("NNDIFF_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
