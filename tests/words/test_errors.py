"""Tests of the exception that users see: at most four lines, and unchanged when passed between processes."""

import pickle
from dataclasses import fields

from nndiff.cli.commands import ROWS
from nndiff.plans.plan import Configuration
from nndiff.words.errors import NAMES_SHOWN, NndiffError, nearest

FULL = {"expected": "(1, 1, 1)", "found": "(1, 1, 3)", "where": "/data/case_0.nii.gz", "remedy": "resample it"}


def test_a_full_message_is_four_lines_with_expected_found_where_and_remedy():
    lines = str(NndiffError("The spacing differs.", **FULL)).splitlines()
    assert lines == [
        "The spacing differs.",
        "  expected (1, 1, 1); found (1, 1, 3)",
        "  where: /data/case_0.nii.gz",
        "  remedy: resample it",
    ]


def test_what_is_not_known_is_not_said():
    assert str(NndiffError("Too few.", found=0)) == "Too few.\n  found 0"  # zero is something, None is nothing
    assert str(NndiffError("Plain.")) == "Plain."


def test_a_copy_at_a_place_has_what_was_given_and_keeps_the_rest():
    error = NndiffError("The spacing differs.", **FULL)
    assert vars(error.at()) == vars(error)
    told = error.at("/data", prefix="Case a: ", remedy="look")
    assert vars(told) == {"what": "Case a: The spacing differs.", **FULL, "where": "/data", "remedy": "look"}
    assert vars(error) == {"what": "The spacing differs.", **FULL}, "the first is left as it was"


def test_none_removes_a_field_from_the_copy():
    bare = NndiffError("The spacing differs.", **FULL).at(None, expected=None, remedy=None)
    assert str(bare) == "The spacing differs.\n  found (1, 1, 3)"


def test_every_field_survives_the_way_back_from_a_worker():
    error = NndiffError("The spacing differs.", **FULL)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is NndiffError
    assert vars(back) == vars(error)
    assert str(back) == str(error)


def test_a_subclass_comes_back_as_itself():
    assert type(pickle.loads(pickle.dumps(_Special("x", remedy="y")))) is _Special


class _Special(NndiffError):
    pass


def test_nearest_names_the_likely_word_or_else_all_of_them():
    assert nearest("brigde", ["bridge", "ddpm"]) == "did you mean 'bridge'?"
    assert nearest("zzz", ["ddpm", "bridge"]) == "use one of: bridge, ddpm"
    many = [f"name{i:03d}" for i in range(NAMES_SHOWN + 1)]
    assert nearest("zzz", many).endswith(f"{many[-2]}, …")
    assert nearest("zzz", many[1:]).endswith(many[-1])
    assert max(len(fields(Configuration)), len(ROWS) + 1) <= NAMES_SHOWN, "none of them is hidden"
    assert nearest("zzz", []) == "none is available"
