"""Tests of nndiff_evaluate_generation: copies are detected, noise is distant, incomparable sets are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nndiff.cli.evaluate_generation import main
from nndiff.data.prepare import empty
from nndiff.evaluation.generation import FILE, features_of, judge
from nndiff.imaging import io, store
from nndiff.metrics.features import Random
from nndiff.plans.plan import Plan
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json
from nndiff.words.volume import Volume
from tests.training.tiny import NAME, prepare, tiny_plan


@pytest.fixture
def world(tmp_path) -> Any:
    """(plan, folder of prepared cases, write(cases, change) → folder of volumes)."""
    plan = tiny_plan(("prdit",), sources=(), targets=("CT",))
    folder = prepare(tmp_path, plan, 12) / "prdit"
    return plan, folder, lambda *words: written(tmp_path, plan, folder, *words)


def written(root: Path, plan: Plan, folder: Path, cases: list[str], change: Any = lambda array: array) -> Path:
    """A folder of these cases' targets, each changed, as if they had been generated."""
    blank, out = empty(plan.preparation("prdit")), root / f"generated_{len(list(root.iterdir()))}"
    out.mkdir()
    for i, case in enumerate(cases):
        array = change(np.array(store.open_case(folder, case)["target"]))
        for c, channel in enumerate(blank.undo(array).array):
            io.write(Volume(channel[None], blank.grid), out / f"volume_{i:03d}_{c:04d}.mha")
    return out


def names(start: int, stop: int) -> list[str]:
    return [f"case_{i}" for i in range(start, stop)]


def judged(world: Any, generated: Any, tmp_path: Any, **options: Any) -> Any:
    plan, folder, _ = world
    words = {"training": names(0, 6), "held_out": names(6, 12)} | options
    (block,) = judge(plan, "prdit", folder, generated=generated, output=tmp_path / "out", extractor=Random(4), **words)
    return block


def test_held_out_scans_themselves_are_at_no_distance_and_noise_is_farther_than_other_scans(world, tmp_path) -> None:
    write = world[2]
    rng = np.random.default_rng(0)
    same = judged(world, write(names(6, 12)), tmp_path)
    noise = judged(world, write(names(6, 12), lambda a: a + rng.normal(0, 0.5, a.shape).astype(np.float32)), tmp_path)
    generated, training = same.rows
    assert generated.figures.fid == pytest.approx(0, abs=1e-6)
    assert training.figures.fid > 10 * generated.figures.fid
    assert noise.rows[0].figures.fid > training.figures.fid
    assert noise.rows[1] == training
    assert training.memorised == generated.memorised, "the held-out scans' own"
    assert read_json(tmp_path / "out" / FILE)[0]["rows"][0]["figures"]["features"] == "random4"


def test_copies_of_training_scans_are_found_out(world, tmp_path) -> None:
    copies, fresh = (judged(world, world[2](cases), tmp_path) for cases in (names(0, 6), names(6, 12)))
    assert copies.rows[0].memorised.ratio == pytest.approx(0, abs=1e-3)
    assert copies.rows[0].memorised.closer == 1
    assert fresh.rows[0].memorised.ratio > 0.3


def test_both_sides_have_as_many_and_no_more_than_asked_for(world, tmp_path) -> None:
    generated = world[2](names(0, 5))
    for n, options in ((5, {}), (3, {"most": 3}), (2, {"most": 2}), (4, {"held_out": names(6, 10)})):
        found = judged(world, generated, tmp_path, **options)
        assert [row.figures.n for row in found.rows] == [n, n]
        assert found.held_out == tuple(names(6, 6 + n))
    few = judged(world, generated, tmp_path, training=names(0, 2))
    assert [row.name for row in few.rows] == ["generated"]


def test_the_first_of_each_set_are_compared_and_every_training_scan_is_searched_for_copies(world, tmp_path) -> None:
    few, more = world[2](names(4, 6)), world[2](names(4, 8))
    found = judged(world, few, tmp_path)
    assert found.rows[0].memorised.generated == pytest.approx(0, abs=1e-3)
    assert judged(world, more, tmp_path, most=2).rows == found.rows


def test_the_interval_is_of_what_is_compared(world, tmp_path) -> None:
    far = judged(world, world[2](names(6, 12), lambda a: a + 0.5), tmp_path).rows[0]
    low, high = far.fid_interval
    assert 0.5 * far.figures.fid < low < high < 2 * far.figures.fid


def test_an_extractor_sees_the_plans_range_as_minus_one_to_one_and_nothing_beyond() -> None:
    class Itself:
        name = "itself"

        def __call__(self, volume: Any) -> Any:
            return volume.ravel()

    found = features_of([np.array([[[0.0, 2.0, 3.0, 4.0, 5.0]]])], (2.0, 4.0), Itself())
    assert found.tolist() == [[-1, -1, 0, 1, 1]]


def test_each_channel_is_compared_with_its_own(tmp_path) -> None:
    plan = tiny_plan(("prdit",), sources=(), targets=("CT", "PET"))
    folder = prepare(tmp_path, plan, 6) / "prdit"
    for i in range(6):
        case, record = store.open_case(folder, f"case_{i}"), store.read_record(folder, f"case_{i}")
        ct, pet = np.array(case["target"])
        store.write_case(folder, f"case_{i}", {"target": np.stack([ct, pet.max() - pet])}, record)
    generated = written(tmp_path, plan, folder, names(3, 6))
    blocks = judge(plan, "prdit", folder, names(0, 3), names(3, 6), generated, tmp_path / "out", Random(4))
    assert [block.channel for block in blocks] == ["CT", "PET"]
    for block in blocks:
        assert block.rows[0].figures.fid == pytest.approx(0, abs=1e-6)
        assert block.rows[1].figures.fid > 1e-4


def test_what_cannot_be_compared_is_refused_before_anything_is_written(world, tmp_path) -> None:
    plan, folder, write = world
    with pytest.raises(NndiffError, match="too few volumes"):
        judged(world, write(names(0, 1)), tmp_path)
    with pytest.raises(NndiffError, match="-n 2 or more"):
        judged(world, write(names(0, 3)), tmp_path, most=0)
    with pytest.raises(NndiffError, match="does not exist"):
        judged(world, tmp_path / "nothing", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NndiffError, match="no generated volume"):
        judged(world, tmp_path / "empty", tmp_path)
    with_two = write(names(0, 3))
    shutil.copy(with_two / "volume_001_0000.mha", with_two / "volume_001_0001.mha")
    with pytest.raises(NndiffError, match="channels of a generated volume differ from those of the plan"):
        judged(world, with_two, tmp_path)
    misnamed = write(names(0, 3))
    (misnamed / "volume_001_0000.mha").rename(misnamed / "volume_001_0001.mha")
    with pytest.raises(NndiffError, match="channels of a generated volume differ from those of the plan"):
        judged(world, misnamed, tmp_path)
    other = write(names(0, 3))
    grid = empty(plan.preparation("prdit")).grid.resampled((8, 8, 4))
    io.write(Volume(np.zeros((1, 8, 8, 4), np.float32), grid), other / "volume_001_0000.mha")
    with pytest.raises(NndiffError, match="grid of a volume differs from that of the plan"):
        judged(world, other, tmp_path)
    grid = empty(plan.preparation("prdit")).grid
    finer = replace(grid, spacing=tuple(0.9 * s for s in grid.spacing))
    io.write(Volume(np.zeros((1, *grid.shape), np.float32), finer), other / "volume_001_0000.mha")
    with pytest.raises(NndiffError, match="grid of a volume differs from that of the plan"):
        judged(world, other, tmp_path)
    with pytest.raises(NndiffError, match="only for datasets for generation"):
        judge(tiny_plan(("prdit",)), "prdit", folder, [], [], tmp_path, tmp_path / "out", Random(4))
    assert not (tmp_path / "out" / FILE).exists()


def test_an_output_that_cannot_be_written_is_refused_before_any_volume_is_looked_at(world, tmp_path) -> None:
    class Never:
        name = "never"

        def __call__(self, volume: Any) -> Any:
            raise AssertionError

    plan, folder, write = world
    (tmp_path / "file").touch()
    with pytest.raises(NndiffError):
        judge(plan, "prdit", folder, names(0, 6), names(6, 12), write(names(0, 2)), tmp_path / "file" / "out", Never())


def test_the_command_prints_both_rows_and_minds_its_flags(world, tmp_path, roots, run_cli) -> None:
    plan, _, write = world
    generated = write(names(0, 4))
    prepare(roots.preprocessed.parent, plan, 12)
    code, out, err = run_cli(main, "1", "prdit", "0", generated, "-o", tmp_path / "out", "--dimensions", "4")
    assert code == 0, err
    assert "generated" in out
    assert str(tmp_path / "out" / FILE) in out
    code, _, err = run_cli(main, "1", "prdit", "0", generated, "-o", tmp_path / "out", "--features", "medicalnet")
    assert code == 1
    assert "resnet_50.pth" in err
    code, _, err = run_cli(main, "1", "prdit", "all", generated, "-o", tmp_path / "out")
    assert code == 1
    assert "which has no held-out case" in err
    assert (roots.preprocessed / NAME).is_dir()
