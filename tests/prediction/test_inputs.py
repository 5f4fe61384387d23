"""Tests of the input folder of a prediction: the cases that follow from the names of its files."""

from __future__ import annotations

import pytest

from nndiff.plans.channels import Channel
from nndiff.prediction.inputs import find
from nndiff.words.errors import NndiffError
from nndiff.words.kind import kind_of
from nndiff.words.scheme import Scheme

PET, CT = (Channel(name, kind_of(name), Scheme("fixed", {"low": 0.0, "high": 1.0}), 0.0) for name in ("PET", "CT"))


@pytest.fixture
def folder(tmp_path):
    """folder(*names) → a folder of empty files."""

    def make(*names):
        for name in names:
            (tmp_path / name).write_text("")
        return tmp_path

    return make


def test_cases_are_sorted_and_their_channels_in_order(folder):
    found = find(folder("b_0001.nii.gz", "b_0000.nii.gz", "a_0000.mha", "a_0001.nrrd"), (PET, CT))
    assert [case.name for case in found.cases] == ["a", "b"]
    assert [[path.name for path in case.files] for case in found.cases] == [
        ["a_0000.mha", "a_0001.nrrd"],
        ["b_0000.nii.gz", "b_0001.nii.gz"],
    ]
    assert (found.failures, found.ignored) == ({}, ())


def test_a_name_may_hold_dots_spaces_and_numbers_of_its_own(folder):
    found = find(folder("pat.1 visit_0002_0000.nii.gz"), (PET,))
    assert [case.name for case in found.cases] == ["pat.1 visit_0002"]


def test_what_is_no_image_is_told_and_what_is_hidden_is_not(folder):
    found = find(folder("a_0000.nii.gz", "notes.txt", ".DS_Store", ".part-host_1+a_0000.nii.gz"), (PET,))
    assert found.ignored == ("notes.txt",)
    assert [case.name for case in found.cases] == ["a"]


@pytest.mark.parametrize(
    ("names", "channels", "words"),
    [
        (("bad.nii.gz",), (PET,), ("bad.nii.gz has no channel number", "_0000 PET")),
        (("bad_0000.nii.gz", "bad_0001.nii.gz"), (PET,), ("needs 1 source channel:", "found channels [0, 1]")),
        (("bad_0000.nii.gz",), (PET, CT), ("needs 2 source channels", "bad_0001 (CT)", "found channels [0]")),
        (("bad_0001.nii.gz",), (PET,), ("bad_0000 (PET)", "found channels [1]")),
        (("bad_0000.nii.gz", "bad_0000.mha"), (PET,), ("two files are channel 0 of this case",)),
    ],
)
def test_a_case_that_does_not_fit_is_explained_and_the_others_stay(folder, names, channels, words):
    good = [f"good_{i:04d}.nii.gz" for i in range(len(channels))]
    found = find(folder(*names, *good), channels)
    assert [case.name for case in found.cases] == ["good"]
    assert set(found.failures) == {"bad"}
    for word in words:
        assert word in found.failures["bad"]


@pytest.mark.parametrize("name", ["-rf", "a\u202eb", "a ", "\x1b[2Ja", "a\nb"])
def test_a_name_that_cannot_be_printed_or_typed_is_no_case(folder, name):
    found = find(folder("good_0000.nii.gz", f"{name}_0000.nii.gz"), (PET,))
    assert [case.name for case in found.cases] == ["good"]
    assert len(found.failures) == 1
    assert all((case + why).isprintable() for case, why in found.failures.items())


def test_a_folder_without_an_image_or_none_at_all_is_refused(folder):
    with pytest.raises(NndiffError, match=r"CASE_0000\.nii\.gz.*an empty folder"):
        find(folder(), (PET,))
    with pytest.raises(NndiffError, match=r"input folder contains no image.*\n.*found notes\.txt"):
        find(folder("notes.txt"), (PET,))
    with pytest.raises(NndiffError, match="does not exist"):
        find(folder() / "nowhere", (PET,))


@pytest.mark.parametrize("name", ["a_0000.nii.gz", "scan.nii.gz", "scan.mha"])
def test_one_file_is_one_case(folder, name):
    """Whatever lies beside it."""
    path = folder(name, "b_0000.nii.gz", "a_0001.nii.gz" if name.startswith("s") else "c.nii.gz") / name
    (case,) = find(path, (PET,)).cases
    stem = name.removesuffix(".nii.gz").removesuffix(".mha").removesuffix("_0000")
    assert (case.name, case.files) == (stem, (path,))
    assert name.endswith(case.ending)


def test_the_other_channels_of_a_file_lie_beside_it(folder):
    here = folder("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "aa_0001.nii.gz", "a_0001.mha")
    (case,) = find(here / "a_0001.nii.gz", (PET, CT)).cases
    assert (case.name, case.files) == ("a", (here / "a_0000.nii.gz", here / "a_0001.nii.gz"))
    assert "2 source channels" in find(here / "b_0000.nii.gz", (PET, CT)).failures["b"]
    with pytest.raises(NndiffError, match=r"no image(.|\n)*notes"):
        find(folder("notes.txt") / "notes.txt", (PET,))
