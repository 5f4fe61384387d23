"""Golden tests of plans for invented datasets: the decisions in `plans/`, the wording of reasons in wording.txt.

`NNDIFF_UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/golden` writes them anew; review the diff. The wording is only
written by a run of all plans, because one plan does not show which lines the other plans still use.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nndiff.methods import planned_for
from nndiff.planning.planner import plan
from nndiff.words.files import read_json, write_json
from tests.golden.pins import decisions_of, wording_of
from tests.golden.reviewed import UPDATE, demand_reviewed
from tests.planning.fingerprints import GOLDEN, budget

HERE = Path(__file__).parent
WORDING = HERE / "wording.txt"
CASES = {  # file → fingerprint, GB, configurations; one fingerprint's stand together, since they share traced networks
    f"{name}_{gigabytes}GB": (name, gigabytes, planned_for(fingerprint.task))
    for name, fingerprint in GOLDEN.items()
    for gigabytes in (8, 24, 80)
} | {f"{name}_24GB_prdit": (name, 24, ("prdit", "prdit_lowres")) for name in ("brain_mr", "thick_slice_mr")}


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a session share: the wording found so far, a file for each plan."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wording"


@pytest.mark.parametrize("case", CASES)
def test_the_plan_is_the_one_that_was_reviewed(case: str, found: Path) -> None:
    """Planning takes seconds, so each plan is made once, and whichever test ends last sees the wording of all."""
    name, gigabytes, names = CASES[case]
    planned = plan(GOLDEN[name], budget(gigabytes), names)
    wording = wording_of(planned)
    write_json(found / f"{case}.json", sorted(wording))
    demand_reviewed(HERE / "plans" / f"{case}.json", decisions_of(planned))
    files = [found / f"{case}.json" for case in CASES]
    if all(file.exists() for file in files):
        every = sorted({line for file in files for line in read_json(file)})
        demand_reviewed(WORDING, "\n".join(every) + "\n")
    elif not UPDATE:
        unknown = wording - set(WORDING.read_text(encoding="utf-8").splitlines())
        assert not unknown, "wording.txt lacks these lines"


def test_every_file_belongs_to_a_plan() -> None:
    assert {file.stem for file in (HERE / "plans").iterdir()} <= set(CASES)
