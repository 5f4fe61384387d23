"""Whole plans for invented datasets, kept as the text a person reads, and reviewed by eye when they change.

`NNDIFF_UPDATE_GOLDEN=1 make test` writes them anew; the diff is what there is to review.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nndiff.cli.tables import plan_table
from nndiff.planning.planner import plan
from nndiff.planning.recipe import configurations
from tests.planning.fingerprints import GOLDEN, budget

PLANS = Path(__file__).parent / "plans"


@pytest.mark.parametrize("gigabytes", [8, 24, 80])
@pytest.mark.parametrize("name", GOLDEN)
def test_the_plan_is_the_one_that_was_reviewed(name: str, gigabytes: int) -> None:
    fingerprint = GOLDEN[name]
    names = configurations(fingerprint.task)
    text = plan_table(plan(fingerprint, budget(gigabytes), names), names, verbose=True, width=110) + "\n"
    path = PLANS / f"{name}_{gigabytes}GB.txt"
    if os.environ.get("NNDIFF_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
