"""Tests of the IXI converter: sequences on different grids are registered, and doubtful cases are excluded."""

from __future__ import annotations

import numpy as np
import pytest

from dataset_conversion.ixi import main
from nndiff.data.integrity import examine
from nndiff.imaging import io
from nndiff.words import dataset
from nndiff.words.files import read_json
from nndiff.words.volume import Volume
from tests.imaging.test_register import GRID, SHAPE, moved, scan

CASES = ("IXI002-Guys-0828", "IXI012-HH-1211")


@pytest.fixture
def scans(tmp_path):
    for number, case in enumerate((*CASES, "IXI013-HH-1212")):
        t1 = moved(scan("pet"), 4.0 * number, (5.0 * number, -6.0, 3.0))
        if number == 2:
            t1 = Volume(np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32), GRID)
        for name, volume in (("T1", t1), ("T2", scan("ct"))):
            io.write(
                Volume(volume.array + number / 1e3, volume.grid),
                tmp_path / "in" / f"IXI-{name}" / f"{case}-{name}.nii.gz",
            )
    return tmp_path / "in"


def test_pairs_share_a_grid_and_the_doubtful_is_left_out(scans, tmp_path, run_cli) -> None:
    outcome = run_cli(main, "-i", scans, "--raw", tmp_path / "raw", "-np", 0)
    assert outcome.code == 0, outcome.err
    assert "left out: IXI013-HH-1212: T1: source and target hardly correspond" in outcome.out
    found = dataset.read(tmp_path / "raw" / "Dataset934_IXI")
    assert found.findings == ()
    assert [case.name for case in found.cases] == list(CASES)
    for case in found.cases:
        assert [f for f in examine(case, found).findings if f.severity == "error"] == []
        assert case.target[0].is_relative_to(scans), "the target stays where it is"
        record = read_json(found.folder / "registration" / f"{case.name}_0000.json")
        assert record["after"] > record["before"]
        assert (found.folder / "registration" / f"{case.name}_0000.png").exists()
    made = [case.source[0] for case in found.cases]
    before = [path.stat().st_mtime_ns for path in made]
    assert run_cli(main, "-i", scans, "--raw", tmp_path / "raw", "-np", 0).code == 0
    assert [path.stat().st_mtime_ns for path in made] == before, "what is done is not done again"
