"""best.json: it comes back as it was written, and an outdated or damaged one is refused in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nndiff.words import best
from nndiff.words.best import Averages, Best, Fold, Row
from nndiff.words.errors import NndiffError

FIGURES = Averages(50.0, 40.0, 0.5, 1.0, None)


def made(configuration="bridge", folds=("0", "2")) -> Best:
    own = tuple(Fold(fold, f"hash{fold}", 7, 10, 1, FIGURES) for fold in folds)
    first = Row(configuration, own, FIGURES, FIGURES, 1.5, 10**9, 0.0, None)
    second = Row("other", own[:1], FIGURES, FIGURES, 0.5, 10**9, -0.5, (-1.0, -0.1))
    return Best(
        configuration, folds, "Use it.", (first, second), {"a": "a", "b": "a"}, {"c": "no"}, ("cpu",), {"x": "1"}
    )


@pytest.fixture
def folder(tmp_path):
    for fold in ("0", "2"):
        (tmp_path / "bridge" / f"fold_{fold}").mkdir(parents=True)
    best.save(tmp_path, made())
    return tmp_path


def test_it_comes_back(folder) -> None:
    found = best.load(folder)
    assert found == made()
    assert found.weights == {"0": "hash0", "2": "hash2"}


@pytest.mark.parametrize(("interval", "clearly"), [(None, False), ((-1.0, -0.1), True), ((-1.0, 0.1), False)])
def test_clearly_worse_is_an_interval_below_0(interval, clearly) -> None:
    assert replace(made().rows[1], interval=interval).clearly_worse is clearly


def test_without_the_file_the_command_that_makes_it_is_named(tmp_path) -> None:
    with pytest.raises(NndiffError, match=r"best\.json is missing") as caught:
        best.load(tmp_path)
    assert "nndiff_find_best_configuration" in str(caught.value.remedy)


@pytest.mark.parametrize(("gone", "found"), [("bridge/fold_2", "no fold_2"), ("bridge", "no folder")])
def test_a_model_that_is_gone_is_refused(gone, found, folder) -> None:
    (folder / gone).rename(folder / "elsewhere")
    with pytest.raises(NndiffError, match="no longer exists") as caught:
        best.load(folder)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"configuraton": "x"}, "Unknown key 'configuraton'"),
        ({"folds": "0"}, "'folds' has the wrong type"),
        ({"configuration": "absent"}, "no row of the configuration"),
    ],
)
def test_a_file_that_was_damaged_by_hand_is_refused(change, what, folder) -> None:
    path = folder / best.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(NndiffError, match=what) as caught:
        best.load(folder)
    assert caught.value.where == path
    assert "nndiff_find_best_configuration" in str(caught.value.remedy)
