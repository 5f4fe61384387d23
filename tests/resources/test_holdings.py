"""Tests of what is found in the root folders: how far each dataset is, in numbers and without names of cases."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nndiff import checkpoint
from nndiff.checkpoint import BEST, LATEST
from nndiff.data import fingerprint
from nndiff.imaging import store
from nndiff.plans.plan import digest, save
from nndiff.resources import holdings
from nndiff.sampling import inference
from nndiff.words import dataset
from nndiff.words.paths import Paths
from tests.conftest import make_raw_dataset
from tests.prediction.trained import plan_of, save_trained

NAME, PATIENT = "Dataset001_Tiny", "case_0"


def known(roots: Paths) -> dict[str, Path]:
    return {"raw": roots.raw, "preprocessed": roots.preprocessed, "results": roots.results}


def looked(roots: Paths) -> tuple[holdings.Row, list[str]]:
    """Return what is found of the only dataset; no text of it names a case."""
    assert holdings.datasets(known(roots)) == [NAME]
    row, problems = holdings.dataset(NAME, known(roots))
    assert PATIENT not in json.dumps([row, [vars(problem) for problem in problems]])
    return row, [problem.what for problem in problems if problem.stops]


def test_each_stage_is_told_from_the_one_before(roots: Paths) -> None:
    folder, plan = roots.preprocessed / NAME, plan_of()
    raw = make_raw_dataset(roots.raw, cases=2)
    row, stopping = looked(roots)
    assert (row["stage"], row["cases"], row["task"], stopping) == ("raw", 2, "translation", [])
    assert row["runs"] == []

    found, _ = fingerprint.extract(dataset.read(raw), 0)
    save(folder / "fingerprint.json", found)
    assert looked(roots)[0]["stage"] == "fingerprint"

    save(folder / "plan.json", plan)
    row, _ = looked(roots)
    assert row["stage"] == "planned"
    assert row["configurations"] == {"bridge": {"preprocessed": 0, "otherwise": 0}}

    for case, preparation in (("case_0", digest(plan.preparation("bridge"))), ("case_1", "of another plan")):
        store.write_case(folder / "bridge", case, {"source": np.zeros((1, 2, 2, 2))}, {"preparation": preparation})
    assert looked(roots)[0]["configurations"] == {"bridge": {"preprocessed": 1, "otherwise": 1}}

    fold = roots.results / NAME / "bridge" / "fold_0"
    fold.mkdir(parents=True)
    assert looked(roots)[0]["runs"] == [{"configuration": "bridge", "fold": "0", "state": "no checkpoint"}]

    save_trained(fold / LATEST, plan, step=7)
    run = {"configuration": "bridge", "fold": "0", "state": "begun", "step": 7, "of": 10, "tuned": False}
    assert looked(roots)[0]["runs"] == [run]
    _, problems = holdings.dataset(NAME, known(roots))
    assert ["1 of 2 cases are preprocessed" in problem.what for problem in problems] == [True]

    save_trained(fold / LATEST, plan, step=10)
    assert looked(roots)[0]["runs"] == [run | {"state": "finished", "step": 10}]
    save_trained(fold / BEST, plan)
    assert looked(roots)[0]["runs"] == [run | {"state": "finished", "step": 10}]
    (fold / LATEST).unlink()
    assert looked(roots)[0]["runs"] == [run | {"state": "passed on"}]


def test_only_the_sampler_that_was_tuned_for_these_weights_counts(
    roots: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, fold = plan_of(), roots.results / NAME / "bridge" / "fold_0"
    save_trained(fold / BEST, plan)
    found = SimpleNamespace(checkpoint=BEST, weights="others")
    (fold / inference.FILE).write_text("{}")
    monkeypatch.setattr(inference, "_migrated", lambda data, overlap: data)
    monkeypatch.setattr(inference, "decode", lambda *_: found)
    assert [run["tuned"] for run in looked(roots)[0]["runs"]] == [False]
    found.weights = inference.digest_of(checkpoint.load(fold / BEST).ema)
    assert [run["tuned"] for run in looked(roots)[0]["runs"]] == [True]


@pytest.mark.parametrize("file", ["fingerprint.json", "plan.json", LATEST, "dataset.json", "a missing scan", "record"])
def test_a_damaged_file_is_a_problem_without_the_name_of_a_case(roots: Paths, file: str) -> None:
    plan, folder, fold = plan_of(), roots.preprocessed / NAME, roots.results / NAME / "bridge" / "fold_0"
    raw = make_raw_dataset(roots.raw, cases=2)
    found, _ = fingerprint.extract(dataset.read(raw), 0)
    save(folder / "fingerprint.json", found)
    save(folder / "plan.json", plan)
    save_trained(fold / LATEST, plan)
    assert looked(roots)[1] == []
    if file == "a missing scan":
        next((raw / "imagesTr").glob("case_0*")).unlink()
    elif file == "record":
        record = folder / "bridge" / "case_0.json"
        record.parent.mkdir()
        record.write_text('{"case_0": ')
        assert looked(roots)[0]["configurations"] == {"bridge": {"preprocessed": 0, "otherwise": 1}}
        return
    else:
        place = {LATEST: fold, "dataset.json": raw}.get(file, folder)
        (place / file).write_text(f'{{"{PATIENT}": ')
    _, stopping = looked(roots)
    assert len(stopping) == 1
    assert NAME in stopping[0] or file == LATEST


def test_a_root_folder_is_judged_by_what_work_needs_of_it(
    roots: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(**given: Path) -> list[str]:
        return [problem.what for problem in holdings.roots(dict(given))[1] if problem.stops]

    roots.raw.mkdir()
    rows, problems = holdings.roots({})
    assert problems == []
    assert [row["set_by"] for row in rows] == ["$nndiff_raw", "$nndiff_preprocessed", "$nndiff_results"]
    assert [row["exists"] for row in rows] == [True, False, False]
    assert "does not exist" in stopping(raw=tmp_path / "no")[0]
    assert stopping(results=tmp_path / "no" / "yet") == []
    (tmp_path / "file").touch()
    assert "is not a folder" in stopping(results=tmp_path / "file")[0]
    assert holdings.roots({"results": tmp_path})[0][2]["set_by"] == "--results"

    monkeypatch.setattr(holdings.os, "access", lambda path, mode: not mode & holdings.os.W_OK)
    assert ["cannot be written" in what for what in stopping()] == [True, True]  # the raw folder need not be
    monkeypatch.setattr(holdings.os, "access", lambda path, mode: True)
    monkeypatch.setattr(holdings.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8, total=10**12))
    assert ["0.10 GB left" in what for what in stopping()] == [True, True]


def test_folders_that_are_not_set_are_told_and_stop_nothing() -> None:
    rows, problems = holdings.roots({})
    assert [row["set_by"] for row in rows] == [None] * 3
    assert len(problems) == 3
    assert not any(problem.stops for problem in problems)


def test_the_file_system_is_that_of_the_innermost_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "a disk"
    inner.mkdir()
    mounts = tmp_path / "mounts"
    place = str(inner.resolve()).replace(" ", "\\040")
    mounts.write_text(f"x {place} nfs4 rw 0 0\n/dev/root / ext4 rw 0 0\n")
    monkeypatch.setattr(holdings, "MOUNTS", mounts)
    assert (holdings.file_system(inner), holdings.file_system(tmp_path)) == ("nfs4", "ext4")
    monkeypatch.setattr(holdings, "MOUNTS", tmp_path / "none")
    assert holdings.file_system(inner) is None
