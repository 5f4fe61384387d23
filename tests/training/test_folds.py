"""Tests of splits: patients are never divided, every case is held out once, and edits by hand are used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiff.training.folds import ALL, FILE, FOLDS, Split, make, split_of
from nndiff.words.errors import NndiffError

PATIENTS = {f"case_{i}": f"patient_{i // 2}" for i in range(12)}


def groups_of(patients: list[int]) -> dict[str, str]:
    return {f"case_{i}": f"patient_{patient}" for i, patient in enumerate(patients)}


@given(st.lists(st.integers(0, 8), min_size=2, max_size=20).filter(lambda rows: len(set(rows)) > 1))
def test_no_patient_straddles_and_every_case_is_held_out_exactly_once(patients) -> None:
    groups = groups_of(patients)
    splits = make(groups)
    assert len(splits) == min(FOLDS, len(set(patients)))
    for split in splits:
        assert sorted([*split.train, *split.val]) == sorted(groups)
        assert not {groups[case] for case in split.train} & {groups[case] for case in split.val}
        assert split.train
        assert split.val
    assert sorted(case for split in splits for case in split.val) == sorted(groups)


def test_folds_hold_out_alike_many_patients() -> None:
    sizes = [len(split.val) for split in make(groups_of(list(range(13))))]
    assert max(sizes) - min(sizes) <= 1


def test_everybody_gets_the_same_splits_in_whatever_order_cases_are_listed() -> None:
    assert make(PATIENTS) == make(dict(reversed(PATIENTS.items())))


def test_the_first_to_ask_writes_the_file_and_the_next_reads_it(tmp_path) -> None:
    splits = [split_of(str(fold), tmp_path, PATIENTS) for fold in range(5)]
    assert splits == make(PATIENTS)
    written = json.loads((tmp_path / FILE).read_text())
    assert [Split(tuple(row["train"]), tuple(row["val"])) for row in written] == splits


def test_fold_all_trains_and_validates_on_every_case_and_leaves_no_file(tmp_path) -> None:
    assert split_of(ALL, tmp_path, PATIENTS) == Split(tuple(sorted(PATIENTS)), tuple(sorted(PATIENTS)))
    assert not (tmp_path / FILE).exists()


# ---------------------------------------------------------------- edited by hand


def edited(folder: Path, *splits: tuple[list[str], list[str]]) -> Path:
    (folder / FILE).write_text(json.dumps([{"train": train, "val": val} for train, val in splits]))
    return folder


GROUPS = {"a": "p", "b": "p", "c": "q", "d": "r"}


def test_an_edited_file_is_obeyed(tmp_path) -> None:
    folder = edited(tmp_path, (["c", "d"], ["a", "b"]), (["d", "a", "b"], ["c"]))
    assert split_of("1", folder, GROUPS) == Split(("d", "a", "b"), ("c",))
    with pytest.raises(NndiffError, match=r"no fold 2.*\n.*0 to 1"):
        split_of("2", folder, GROUPS)


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        (["c", "d"], ["a", "b", "ghost"], "not preprocessed: ghost"),
        (["c"], ["a", "b"], "in no fold: d"),
        (["a", "c", "d"], ["b"], r"Fold 0 has the same patient in training and in validation.*\n.*found p"),
        (["a", "b", "c", "d"], ["a"], "same patient in training and in validation"),
        (["a", "b", "c", "d"], [], "Fold 0 has no training case or no validation case"),
        ([], ["a", "b", "c", "d"], "Fold 0 has no training case or no validation case"),
    ],
)
def test_a_wrong_edit_is_refused_by_name_and_place(tmp_path, train, val, words) -> None:
    with pytest.raises(NndiffError, match=words) as refusal:
        split_of("0", edited(tmp_path, (train, val)), GROUPS)
    assert refusal.value.where == tmp_path / FILE
    assert refusal.value.remedy


def test_a_file_of_another_form_is_refused(tmp_path) -> None:
    (tmp_path / FILE).write_text('[{"train": ["a"], "validation": ["c"]}]')
    with pytest.raises(NndiffError, match="Unknown key 'validation'"):
        split_of("0", tmp_path, GROUPS)


@pytest.mark.parametrize("fold", ["5", "17", "-1", "first", ""])
def test_a_fold_that_does_not_exist_is_refused(tmp_path, fold) -> None:
    with pytest.raises(NndiffError, match=r"0 to 4.*or all"):
        split_of(fold, tmp_path, PATIENTS)


def test_a_single_patient_can_only_be_trained_whole(tmp_path) -> None:
    with pytest.raises(NndiffError, match="train fold all, because a single patient cannot be split"):
        split_of("0", tmp_path, dict.fromkeys("abc", "p"))
    assert split_of(ALL, tmp_path, dict.fromkeys("abc", "p")).train == ("a", "b", "c")


def test_once_a_second_patient_has_come_there_are_folds(tmp_path) -> None:
    with pytest.raises(NndiffError):
        split_of("0", tmp_path, {"a": "p"})
    assert split_of("1", tmp_path, {"a": "p", "b": "q"}).val
