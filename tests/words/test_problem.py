"""Tests of texts for bug reports: they hold no name of a person that a path can tell."""

from __future__ import annotations

import pytest

from nndiff.words.problem import without_names


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/jane/data", "~other/data"),
        ("see /home/jane, or '/Users/jane/x'", "see ~other, or '~other/x'"),
        ("/root/.venv/bin/python", "~other/.venv/bin/python"),
        ("/rooted/x /data/root", "/rooted/x /data/root"),
        ("/mnt/people/ann/data", "~/data"),
        ("/mnt/people/annabel/data", "/mnt/people/annabel/data"),
        ("/scratch/ann_k/run", "/scratch/$USER/run"),
        ("/scratch/ann_kim", "/scratch/ann_kim"),
        ("/data/nndiff_raw", "/data/nndiff_raw"),
    ],
)
def test_the_home_folder_is_a_tilde_and_that_of_another_says_so(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/mnt/people/ann")
    monkeypatch.setenv("USER", "ann_k")
    assert without_names(text) == shown
    assert without_names({"a": [text, 1, None, True]}) == {"a": [shown, 1, None, True]}
    assert without_names({text: (text,)}) == {shown: [shown]}
    assert without_names(shown) == shown
