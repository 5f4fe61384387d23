"""Tests of the names of cases: what a file name, a table, a log and a command line can bear."""

from __future__ import annotations

import pytest

from nndiff.words.names import LONGEST, of_one_patient, shown, unfit


@pytest.mark.parametrize("name", ["a", "case_1", "A.1", "MÜLLER 2", "病例", "x" * LONGEST, "a-", "1", "a'b", "ü" * 100])
def test_what_can_be_a_name(name: str) -> None:
    assert unfit(name) == ""
    assert shown(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        (".hidden", "starts with"),
        ("-rf", "starts with"),
        ("a/b", "slash"),
        ("a\\b", "slash"),
        ("..", "starts with"),
        (" a", "blank"),
        ("a\u00a0", "blank"),
        ("a\nb", "U+000A"),
        ("a\tb", "U+0009"),
        ("a\x1b[2J", "U+001B"),
        ("a\u202egp.nii", "U+202E"),  # reverses what follows on a screen
        ("a\u200bb", "U+200B"),
        ("a\u2028b", "U+2028"),
        ("a\udc80", "U+DC80"),  # a byte that is no text
        ("x" * (LONGEST + 1), "longer"),
        ("ü" * 101, "longer"),
    ],
)
def test_what_cannot(name: str, why: str) -> None:
    assert why in unfit(name)
    assert shown(name).isprintable()


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["p01_s2", "p01_s1", "p02_s1"], ["p01_s1", "p01_s2"]),
        (["sub-01_ses-1", "sub-02_ses-1", "sub-02_ses-2"], ["sub-02_ses-1", "sub-02_ses-2"]),
        (["anna.visit1", "anna.VISIT2", "bert"], ["anna.VISIT2", "anna.visit1"]),
        (["p01_s1", "p02_s1", "p03_s2"], []),
        (["pet_scan1", "pet_scan2", "pet_scan3"], []),  # a numbering
        (["case_1", "case_2", "body011", "body012"], []),
        (["s1", "s2", "t1"], []),
        ([], []),
    ],
)
def test_which_names_seem_to_be_visits_of_one_patient(names: list[str], found: list[str]) -> None:
    assert of_one_patient(names) == found
