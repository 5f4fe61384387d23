"""Tests of registries: a name is looked up in the built-in table first, then in the entry points of other packages."""

import pytest

from nndiff.words import registry
from nndiff.words.errors import NndiffError
from nndiff.words.registry import Registry


class Point:
    def __init__(self, name):
        self.name = name

    def load(self):
        return f"loaded {self.name}"


@pytest.fixture
def offered(monkeypatch):
    groups = {"nndiff.colour": [Point("green"), Point("red")]}
    monkeypatch.setattr(registry, "entry_points", lambda group: groups.get(group, []))
    return Registry("colour", {"red": "our red", "blue": "our blue"})


def test_the_table_comes_before_what_others_offer(offered):
    assert offered["red"] == "our red"
    assert offered["green"] == "loaded green"


def test_every_name_is_listed_once(offered):
    assert list(offered) == ["red", "blue", "green"]
    assert "green" in offered
    assert "yellow" not in offered
    assert offered.values() == ["our red", "our blue", "loaded green"]


def test_another_kind_sees_nothing_of_it(offered):
    assert list(Registry("shape", {"round": 1})) == ["round"]


def test_installed_packages_are_searched_once_for_each_path(monkeypatch):
    searched = []

    def search(group):
        searched.append(group)
        return [Point("green")]

    monkeypatch.setattr(registry, "entry_points", search)
    colours = Registry("colour", {"red": "our red"})
    for _ in range(3):
        assert list(colours) == ["red", "green"]
        assert colours["green"] == "loaded green"
    assert searched == ["nndiff.colour"]
    monkeypatch.syspath_prepend("/elsewhere")  # as for a package that is installed there
    assert "green" in colours
    assert len(searched) == 2


def test_an_unknown_name_says_the_kind_and_the_nearest(offered):
    with pytest.raises(NndiffError, match="no colour named 'gren'") as raised:
        offered["gren"]
    assert raised.value.remedy == "did you mean 'green'?"


def test_the_table_given_stays_its_owners(offered):
    table = {"a": 1}
    copy = Registry("colour", table)
    table["b"] = 2
    assert "b" not in copy
