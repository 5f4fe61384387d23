"""Tests of the life cycle of plan.json: repeated planning, edits by hand, older plans, changed data."""

from __future__ import annotations

import json

import pytest

from nndiff.planning import lifecycle
from nndiff.planning.planner import plan
from nndiff.plans.migrate import migrated
from nndiff.plans.plan import digest, load_plan
from nndiff.words.errors import NndiffError
from nndiff.words.strict_json import encode
from tests.laws.test_planner_laws import closed_form
from tests.planning.fingerprints import budget, fingerprint

FOUND = fingerprint("Dataset001_A", (64, 64, 64), (2.0, 2.0, 2.0), ("PET",), ("PET",))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plan.json"


def settle(path, *names, found=FOUND, memory=24, clean=False, overrides=None):
    settled = lifecycle.settle(
        path,
        names,
        overrides or {},
        clean,
        lambda wanted, fixed: plan(found, budget(memory), wanted, fixed, closed_form),
    )
    lifecycle.write(path, settled)
    return settled


def section(path, name: str) -> str:
    text = path.read_text()
    start = text.index(f'    "{name}": {{')
    return text[start : text.index("\n    }", start)]


def edit(path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data, indent=2))


def test_planning_one_configuration_leaves_the_others_byte_for_byte(path) -> None:
    settle(path, "bridge", "ddpm", memory=80)
    before = section(path, "ddpm")
    settle(path, "bridge", memory=4)
    assert section(path, "ddpm") == before
    made = load_plan(path)
    assert made.configurations["bridge"].budget.memory_bytes == 4 * 10**9
    assert made.configurations["ddpm"].budget.memory_bytes == 80 * 10**9
    assert {d.configuration for d in made.decisions} == {"", "bridge", "ddpm"}


def test_the_same_command_twice_writes_the_same_bytes(path) -> None:
    settle(path, "bridge", "ddpm")
    before = path.read_bytes()
    settle(path, "bridge", "ddpm")
    assert path.read_bytes() == before


def test_an_edited_configuration_is_kept_until_clean(path) -> None:
    settle(path, "bridge", "ddpm")
    edit(path, lambda data: data["configurations"]["bridge"].update(batch_size=7))
    settled = settle(path, "bridge", "ddpm", memory=80)
    assert settled.kept == ("bridge",)
    assert any("edited by hand" in note for note in settled.notes)
    assert load_plan(path).configurations["bridge"].batch_size == 7
    assert load_plan(path).configurations["ddpm"].budget.memory_bytes == 80 * 10**9
    assert settle(path, "bridge", "ddpm", clean=True).kept == ()
    assert load_plan(path).configurations["bridge"].batch_size != 7


def test_a_plan_from_before_a_decision_was_invented_was_not_edited_by_hand(path) -> None:
    settle(path, "bridge", "ddpm")

    def outdate(data) -> None:
        del data["configurations"]["bridge"]["sampler"]["samples"]
        data["seals"]["bridge"] = digest(data["configurations"]["bridge"])

    edit(path, outdate)
    assert settle(path, "bridge").kept == ()
    assert json.loads(path.read_text())["configurations"]["bridge"]["sampler"]["samples"] == 1
    edit(path, outdate)
    edit(path, lambda data: data["configurations"]["bridge"].update(batch_size=3))
    assert settle(path, "bridge").kept == ("bridge",)


def test_a_plan_of_version_2_gains_the_open_part_and_stays_unedited(path) -> None:
    settle(path, "bridge", "ddpm")

    def outdate(data) -> None:
        data["version"] = 2
        data["decisions"] = [row for row in data["decisions"] if row["name"] != "open_part"]
        for name, configuration in data["configurations"].items():
            del configuration["open_part"]
            data["seals"][name] = digest(configuration)

    edit(path, outdate)
    plan = load_plan(path)
    for name, configuration in plan.configurations.items():
        assert configuration.open_part == 0.3 * configuration.source_distance
        rows = [row for row in plan.decisions if (row.configuration, row.name) == (name, "open_part")]
        assert [row.value for row in rows] == [configuration.open_part]
    assert list(encode(plan)["configurations"]["bridge"]) == list(
        migrated(json.loads(path.read_text()))["configurations"]["bridge"]
    )
    settled = settle(path, "bridge")
    assert settled.kept == ()
    assert load_plan(path).configurations["ddpm"] == plan.configurations["ddpm"]
    edit(path, outdate)
    edit(path, lambda data: data["configurations"]["bridge"].update(batch_size=3))
    assert settle(path, "bridge").kept == ("bridge",)


def test_edited_dataset_wide_choices_are_kept_and_planned_around(path) -> None:
    settle(path, "bridge", "ddpm")
    edit(path, lambda data: data["crop"].update(margin_mm=25.0))
    settled = settle(path, "bridge", "ddpm")
    assert load_plan(path).crop.margin_mm == 25.0
    assert any("dataset-wide" in note for note in settled.notes)


def test_new_data_under_an_old_configuration_is_refused(path) -> None:
    settle(path, "bridge", "ddpm")
    other = fingerprint("Dataset001_A", (64, 64, 64), (2.0, 2.0, 2.0), ("PET",), ("PET",), kept=0.5)
    with pytest.raises(NndiffError, match="have changed since ddpm was planned"):
        settle(path, "bridge", found=other)
    settle(path, "bridge", "ddpm", found=other)


def test_overrides_of_the_others_are_remembered(path) -> None:
    settle(path, "ddpm", overrides={"configurations.ddpm.batch_size": 1})
    settle(path, "bridge", overrides={"configurations.bridge.batch_size": 2})
    assert load_plan(path).overrides == {"configurations.ddpm.batch_size": 1, "configurations.bridge.batch_size": 2}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(version=0), "another version"),
        (lambda data: data["configurations"]["bridge"].update(bach_size=1), "did you mean 'batch_size'"),
        (lambda data: data["configurations"]["bridge"].pop("batch_size"), "'batch_size' is missing"),
        (lambda data: data["configurations"]["bridge"].update(batch_size=0), "at least 1"),
    ],
)
def test_a_broken_plan_is_refused_in_words(path, change, words) -> None:
    settle(path, "bridge")
    edit(path, change)
    with pytest.raises(NndiffError, match=words):
        settle(path, "bridge")
