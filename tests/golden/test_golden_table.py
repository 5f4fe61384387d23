"""Golden test of the layout of a plan in the terminal, for decisions that are independent of the planning rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nndiff.cli.plan_table import plan_table
from nndiff.plans.plan import Decision
from nndiff.words.verdict import Alternative
from tests.golden.reviewed import demand_reviewed
from tests.training.tiny import tiny_plan

TABLES = Path(__file__).parent / "tables"
LONG = "a reason that takes more than one line of the terminal, however wide that is: it goes on below, indented alike"
SCHEME = {"name": "fixed", "options": {"low": -1000.0, "high": 1e-4}}
NETWORK = {
    "name": "unet",
    "width": 64,
    "multipliers": [1, 2, 4, 4],
    "kernels": [[3, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "recompute": "none",
    "skip": [],
}
STAGES = [{"trains": "all", "loss": SCHEME, "share": 0.4}, {"trains": "core", "loss": SCHEME, "share": 0.6}]
PASSED_OVER = (Alternative("width 96", "2.94 GB"), Alternative(SCHEME, "a row of a table"))
DECISIONS = (
    Decision("", "source_channels.0", {"name": "PET", "kind": "pet", "normalization": SCHEME}, "one line"),
    Decision("", "anchor", [], LONG),
    Decision("", "crop", {"enabled": True, "margin_mm": 10.0}, "named values"),
    Decision("", "target_range", [[-1.336, 2.028], [0.0, 1.0]], "a pair for each target channel"),
    Decision("bridge", "spacing", [1.65441, 0.7, 3.0], "a triple", (Alternative([1.25, 0.7, 0.7], LONG),)),
    Decision("bridge", "process", SCHEME, "a row of a table and its options"),
    Decision("bridge", "network", NETWORK, LONG, PASSED_OVER),
    Decision("bridge", "stages", STAGES, "a list of rows"),
    Decision("bridge", "training_steps", 250_000, "a whole number"),
    Decision("elsewhere", "steps", 1, "a configuration that is not shown"),
)


@pytest.mark.parametrize("width", [80, 110])
@pytest.mark.parametrize("verbose", [False, True], ids=["brief", "verbose"])
def test_the_table_is_laid_out_as_reviewed(verbose: bool, width: int) -> None:
    plan = replace(tiny_plan(), dataset="Dataset001_ByHand", decisions=DECISIONS)
    table = plan_table(plan, ("bridge",), verbose, width)
    assert max(map(len, table.splitlines())) <= width
    demand_reviewed(TABLES / f"{'verbose' if verbose else 'brief'}_{width}.txt", table + "\n")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("patch_size", [1, 2, 4], "1 x 2 x 4"),
        ("network", {"name": "unet", "multipliers": [1, 2, 4]}, "multipliers 1, 2, 4"),
        ("network", {"name": "unet", "skip": [1, 2, 3]}, "skip 1, 2, 3"),
        ("network", {"name": "unet", "kernels": [[1, 3, 3], [3, 3, 3]]}, "kernels 1x3x3, 3x3x3"),
        ("network", {"name": "prdit", "block": [2, 4, 4]}, "block 2 x 4 x 4"),
        ("sampler.caches.deep", {"name": "deep", "listed": [0, 2, 5]}, "listed 0, 2, 5"),
        ("a_field_of_another_version", [1, 2, 4], "1, 2, 4"),
    ],
)
def test_only_numbers_per_axis_are_joined_as_a_size(name: str, value: object, words: str) -> None:
    plan = replace(tiny_plan(), decisions=(Decision("bridge", name, value, "why"),))
    assert f"{words}\n" in plan_table(plan, ("bridge",))
