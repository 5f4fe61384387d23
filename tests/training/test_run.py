"""Tests of the training of one fold: the files it writes, its messages, its refusals, and a time budget."""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import nndiff
from nndiff import checkpoint
from nndiff.checkpoint import BEST, BEST_TEXTURE, LATEST, Step
from nndiff.cli.times import seconds_of
from nndiff.cli.train import main
from nndiff.imaging import store
from nndiff.plans.plan import Plan
from nndiff.training import agreement, alarms, checkpoints, job, run, validation
from nndiff.training import budget as timing
from nndiff.training.batches import Batches
from nndiff.training.budget import (
    EPOCHS,
    FEWEST_STEPS,
    LONGEST_EPOCH,
    VALIDATION_SHARE,
    epoch_steps,
    within_budget,
)
from nndiff.training.ranks import Ranks
from nndiff.training.run import train
from nndiff.training.validation import without_network
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART, read_json, write_json
from nndiff.words.spread import Spread
from tests.training.tiny import CPU, NAME, arrays, prepare, request, run_of, tiny_plan, trainer_of

CASES = ("a", "b", "c", "d")


PLANNED = tiny_plan().configurations["bridge"]


def a_run(cases: int = 4) -> checkpoint.Run:
    return run_of(PLANNED, validation=CASES[:cases])


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "progress.csv", newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- a budget of time

seconds = st.floats(1e-3, 1e3)


def spent(fitted: checkpoint.Run, step: float, case: float, world: int = 1) -> float:
    """All steps, and all validation cases before the first step and after every epoch."""
    epochs = -(-fitted.training_steps // fitted.epoch_steps)
    return fitted.training_steps * step + (epochs + 1) * -(-len(fitted.validation) // world) * case


@given(st.floats(1, 1e6), seconds, seconds, st.integers(1, 4), st.integers(1, 3))
def test_a_budget_is_never_exceeded_and_never_wasted(budget, step, case, cases, world) -> None:
    try:
        fitted = within_budget(a_run(cases), budget, step, case, world)
    except NndiffError:
        assume(False)
    assert spent(fitted, step, case, world) <= budget * (1 + 1e-9)
    assert fitted.training_steps >= FEWEST_STEPS
    lost = (EPOCHS + 2) * len(fitted.validation) * case + step  # validations that fell away when steps were rounded
    assert spent(fitted, step, case, world) >= budget - lost - 0.1 * budget
    assert 1 <= fitted.epoch_steps <= LONGEST_EPOCH
    assert fitted.warmup_steps < fitted.training_steps or fitted.warmup_steps <= 10
    assert 1 <= fitted.ema_half_life <= fitted.training_steps


@given(st.floats(1, 1e6), seconds, seconds)
def test_cases_give_way_before_epochs_and_neither_before_it_must(budget, step, case) -> None:
    try:
        fitted = within_budget(a_run(), budget, step, case)
    except NndiffError:
        assume(False)
    assert fitted.validation == CASES[: len(fitted.validation)]
    epochs = -(-fitted.training_steps // fitted.epoch_steps)
    if EPOCHS * len(CASES) * case <= VALIDATION_SHARE * budget:
        assert fitted.validation == CASES
    elif len(fitted.validation) > 1:
        assert EPOCHS * (len(fitted.validation) + 1) * case > VALIDATION_SHARE * budget
    if epochs < EPOCHS / 2 and fitted.training_steps > 2 * EPOCHS:  # fewer than rounding alone can take
        assert len(fitted.validation) == 1


def test_plenty_of_time_means_every_case_every_epoch() -> None:
    fitted = within_budget(a_run(), 1e6, 0.1, 1.0)
    assert fitted.validation == CASES
    assert fitted.epoch_steps == LONGEST_EPOCH


def test_every_process_validates_a_share_of_the_cases() -> None:
    alone = within_budget(a_run(), 400, 1.0, 1.0)
    together = within_budget(a_run(), 400, 1.0, 1.0, len(CASES))
    assert len(alone.validation) < len(together.validation) == len(CASES)


@given(st.floats(300, 1e6))
def test_a_short_budget_warms_up_and_remembers_for_a_short_while(budget) -> None:
    planned = replace(a_run(), warmup_steps=1000, ema_half_life=500)
    fitted = within_budget(planned, budget, 1.0, 1.0)
    assert fitted.warmup_steps == min(1000, max(10, fitted.training_steps // 10))
    assert fitted.ema_half_life == min(500, max(2, fitted.training_steps // 20))


@pytest.mark.parametrize(("taken", "budget", "expected"), [([9, 9, 1, 2, 30, 2], 1e6, 2.0), ([90, 90, 10], 100, 10.0)])
def test_a_rehearsal_for_a_budget_warms_up_and_stops_early_where_steps_are_long(taken, budget, expected) -> None:
    steps = iter([*taken, 1000])
    trainer: Any = SimpleNamespace(steps=lambda _: (a_step(seconds, seconds / 2) for seconds in steps))
    batches: Any = None
    assert timing._step_seconds(trainer, batches, a_run(), Ranks(), 0, budget) == expected
    assert list(steps) == [1000]


def a_step(seconds: float, waited: float) -> Step:
    return Step(number=1, loss=0.0, gradient_norm=0.0, learning_rate=0.0, seconds=seconds, waited=waited)


@pytest.mark.parametrize(
    ("device", "cores", "asked", "expected"),
    [
        *[("cpu", 1, None, 0), ("cpu", 2, None, 1), ("cpu", 64, None, 1)],
        *[("cuda", 1, None, 1), ("cuda", 4, None, 3), ("cuda", 64, None, 8)],
        *[("cpu", 64, 5, 5), ("cuda", 64, 0, 0)],
    ],
)
def test_as_many_processes_load_data_as_asked_or_as_leave_a_core_free(
    device, cores, asked, expected, monkeypatch
) -> None:
    monkeypatch.setattr(job, "available_cores", lambda: cores)
    begun = SimpleNamespace(request=SimpleNamespace(workers=asked, device=torch.device(device)))
    assert job.Job.loaders(begun) == expected


@pytest.mark.parametrize(("loaders", "expected"), [(0, 0.5), (1, 0.4), (3, 0.4 / 3), (8, 0.1)])
def test_processes_that_load_data_take_their_share_of_a_rehearsed_step(loaders, expected) -> None:
    """What a GPU computes and what is loaded meanwhile do not add up: the slower of both decides."""
    assert timing.beside_loaders(a_step(0.5, 0.4), loaders) == pytest.approx(expected)


@pytest.mark.parametrize(("other", "expected"), [((5.0, 7.0), (5.0, 7.0)), ((0.1, 7.0), (1.0, 7.0))])
def test_a_rehearsal_gives_each_stage_its_share_of_the_budget_and_heeds_the_slowest_rank(
    other, expected, monkeypatch
) -> None:
    asked, plan = [], tiny_plan(("prdit",))
    monkeypatch.setattr(timing, "_step_seconds", lambda *words: asked.append(words[-1]) or 1.0)
    monkeypatch.setattr(Ranks, "gathered", lambda _, own: [own, other])
    validation: Any = SimpleNamespace(of=lambda *_: None)
    batches: Any = None
    words = plan, "prdit", run_of(plan.configurations["prdit"]), CPU, Ranks(), batches, validation
    assert timing.rehearsed(*words, 100.0, lambda _: None) == expected
    assert asked == pytest.approx([40, 60])


def test_a_budget_too_short_names_one_that_is_long_enough() -> None:
    with pytest.raises(NndiffError, match=r"too short for a training(.|\n)*at least 75 s after") as refusal:
        within_budget(a_run(), 60, 5.0, 5.0)
    assert "--time_budget" in str(refusal.value)
    assert within_budget(a_run(), 75, 5.0, 5.0).training_steps == FEWEST_STEPS


@pytest.mark.parametrize(("steps", "expected"), [(1, 1), (19, 1), (40, 2), (5000, 250), (10**6, 250)])
def test_there_are_twenty_epochs_at_least_of_250_steps_at_most(steps, expected) -> None:
    assert epoch_steps(steps) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("8h", 28800),
        ("2d", 172800),
        ("5", 5),
        ("0.5h", 1800),
        ("1h30m", 5400),
        ("1d 2h", 93600),
        ("08:00:00", 28800),
        ("100:00:01", 360001),
        ("1-00:00:00", 86400),
        ("1-12", 129600),
        ("1-12:30", 131400),
    ],
)
def test_a_time_is_read_as_people_write_it(text, expected) -> None:
    assert seconds_of(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0s", "08:00", "8 hours", "h", "-5", "1:99:00", "30m1h", "nan", "1e3"])
def test_a_time_that_is_none_or_has_two_meanings_is_refused(text) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a number alone: seconds"):
        seconds_of(text)


# ---------------------------------------------------------------- end to end


@pytest.fixture
def trained(roots, run_cli):
    """trained(*flags) → exit code, outputs, and the fold's folder."""

    def run(*flags: str, name: str = "bridge", fold: str = "0") -> tuple[Any, Path]:
        return run_cli(main, "1", name, fold, "-device", "cpu", "-np", "0", "--no_tune", *flags), (
            roots.results / NAME / name / f"fold_{fold}"
        )

    return run


@pytest.mark.drawn
def test_a_training_leaves_all_that_it_promises(tmp_path, trained) -> None:
    prepare(tmp_path, tiny_plan(training_steps=2), masked=(0, 4))
    outcome, folder = trained()
    assert outcome.code == 0, outcome.err
    assert f"Trained: {folder}" in outcome.out
    assert "nndiff_predict -i IN -o OUT -d 001 -c bridge -f 0" in outcome.out
    expected = {LATEST, BEST, "progress.csv", "progress.png", "log.txt", "validation"}
    assert {path.name for path in folder.iterdir()} - {BEST_TEXTURE} == expected  # if another epoch is best for a walk
    last = checkpoint.load(folder / LATEST)
    (held_out,) = last.run.validation
    assert held_out not in last.run.training
    assert [path.name for path in (folder / "validation").iterdir()] == [f"{held_out}.png"]
    for picture in (folder / "progress.png", folder / "validation" / f"{held_out}.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG"
    table = rows(folder)
    assert [(row["epoch"], row["step"]) for row in table] == [("1", "1"), ("2", "2")]
    assert last.step == last.run.training_steps == len(last.history) == 2
    best = checkpoint.load(folder / BEST)
    scores = [float(row["score"]) for row in table]
    assert best.step == 1 + scores.index(max(scores))
    log = (folder / "log.txt").read_text()
    assert "Dataset001_Tiny bridge fold 0: 4 training cases" in log
    assert "step 2/2" in log
    assert "done" in log


def test_patches_are_cut_from_the_volume_as_the_network_pads_it(tmp_path, monkeypatch) -> None:
    plan = tiny_plan(training_steps=1, patch_size=(4, 4, 4), puzzle_factor=(2, 2, 2))
    planned = plan.configurations["bridge"]
    prepare(tmp_path, plan, shapes=[(8, 8, 9)])
    made: list[Batches] = []

    class Seen(Batches):
        def __init__(self, **words: Any):
            super().__init__(**words)
            made.append(self)

    monkeypatch.setattr(job, "Batches", Seen)
    train(request(tmp_path, plan))
    steps = planned.network.multiple((2, 2, 2))
    assert {batches.multiple for batches in made} == {steps} != {(1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "words"),
    [("ddpm", {}), ("prior", {"sources": (), "targets": ("CT",)}), ("bridge", {"sources": ("PET", "CT")})],
)
def test_every_task_is_trained_to_its_end(tmp_path, trained, name, words) -> None:
    name = "ddpm" if name == "prior" else name
    prepare(tmp_path, tiny_plan((name,), training_steps=2, **words))
    outcome, folder = trained(name=name)
    assert outcome.code == 0, outcome.err
    assert len(rows(folder)) == 2
    assert (rows(folder)[0]["psnr"] == "") == (words.get("sources") == ())


def test_a_plan_for_another_kind_of_device_is_told_before_the_first_step(tmp_path, trained) -> None:
    plan = tiny_plan(training_steps=1)
    bridge = plan.configurations["bridge"]
    planned_for_a_gpu = replace(bridge, budget=replace(bridge.budget, device="cuda"))
    prepare(tmp_path, plan)
    ours, folder = trained()
    assert "was planned for" not in (folder / "log.txt").read_text()
    prepare(tmp_path, replace(plan, configurations={"bridge": planned_for_a_gpu}))
    other, folder = trained(fold="1")
    assert (ours.code, other.code) == (0, 0), ours.err + other.err
    first = (folder / "log.txt").read_text().splitlines()[0]
    assert "bridge was planned for an NVIDIA GPU and is trained on a CPU: steps may take many times as long" in first
    assert "run nndiff_plan_and_preprocess here" in first


def test_fold_all_says_that_its_scores_flatter(tmp_path, trained) -> None:
    prepare(tmp_path, tiny_plan(training_steps=1))
    outcome, folder = trained(fold="all")
    assert outcome.code == 0, outcome.err
    assert "also training cases, so their scores are too good" in (folder / "log.txt").read_text()
    found = checkpoint.load(folder / LATEST).run
    assert (len(found.training), len(found.validation), found.held_out) == (5, 4, False)


def test_a_training_that_does_not_learn_is_told_so_after_its_warm_up(tmp_path, trained) -> None:
    prepare(tmp_path, tiny_plan(training_steps=6, warmup_steps=3, learning_rate=1e-12))
    outcome, folder = trained()
    assert outcome.code == 0
    (said,) = [line for line in (folder / "log.txt").read_text().splitlines() if "NOT LEARNING" in line]
    assert "after 3 steps" in said
    assert "--set learning_rate=5e-13" in said


def test_a_training_that_learns_after_all_is_told_so_and_warned_again_if_it_forgets(
    tmp_path, trained, monkeypatch
) -> None:
    verdicts = iter(["NOT LEARNING: 2", "NOT LEARNING: 3", None, None, "NOT LEARNING: 6"])  # from step 2 on
    monkeypatch.setattr(alarms, "not_learning", lambda *_: next(verdicts))
    prepare(tmp_path, tiny_plan(training_steps=6))
    _, folder = trained()
    words = [line.partition("  ")[2] for line in (folder / "log.txt").read_text().splitlines()]
    said = [line for line in words if line.startswith(("NOT LEARNING", "The network learns"))]
    assert said == [
        "NOT LEARNING: 2",
        "The network learns now: at step 4 it is better than no network.",
        "NOT LEARNING: 6",
    ]


@pytest.mark.parametrize("sources", [(), (Spread(-0.4, 2.0),)])
def test_what_needs_no_network_is_the_source_a_constant_and_where_a_network_starts(sources) -> None:
    plan = tiny_plan(prediction="x0", network={"sources": sources})
    trainer = trainer_of(plan)
    source = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        start = trainer.network(source, torch.ones(1), source)[0]
    low, high = plan.target_range[0]
    spec = trainer.configuration.network
    kernel = spec.local_mean_kernel(trainer.configuration.puzzle_factor)
    answers = without_network(source[0].numpy(), np.array([0.5]), kernel, plan.target_range, [spec.beyond(0)])
    for found, expected in zip(answers, (source[0], start.clamp(low, high), torch.full_like(start, 0.5)), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_the_figures_without_a_network_are_made_once_per_case(tmp_path, trained, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(validation, "without_network", lambda *a: made.append(a) or without_network(*a))
    prepare(tmp_path, tiny_plan(training_steps=6))
    _, folder = trained()
    with open(folder / "progress.csv", newline="") as stream:
        baselines = [row["baseline_psnr"] for row in csv.DictReader(stream)]
    assert len(baselines) > 2
    assert len(set(baselines)) == 1
    cases = {a[0].tobytes() for a in made}
    assert len(made) == len(cases) < len(baselines)


def test_it_starts_over_nothing_and_goes_on_only_as_it_began(tmp_path, trained) -> None:
    prepare(tmp_path, tiny_plan(training_steps=2))
    _, folder = trained()
    before = (folder / LATEST).read_bytes()
    outcome, _ = trained()
    assert outcome.code == 0
    assert "after step 2" in outcome.err
    assert (folder / LATEST).read_bytes() == before
    for flags, difference in (
        (("--set", "learning_rate=1e-4"), "learning_rate was 0.002, is 0.0001"),
        (("--seed", "1"), "--seed was 0, is 1"),
        (("--set", "sampler.times.steps=3"), "sampler.times.steps was 1, is 3"),
        (("--time_budget", "1h"), "--time_budget was not given, is 60 min"),
        (("--from", str(folder / LATEST)), "--from was not given, is bridge/fold_0/checkpoint_latest.pt"),
    ):
        outcome, _ = trained(*flags)
        assert outcome.code == 1
        assert "A training of this fold exists already" in outcome.err
        assert difference in outcome.err
        assert "(--c)" in outcome.err
        assert "(--restart)" in outcome.err
    for flags in (("--set", "learning_rate=1e-4"), ("--seed", "1"), ("--time_budget", "1h")):
        outcome, _ = trained("--c", *flags)
        assert outcome.code == 1
        assert "keeps the settings it was started with" in outcome.err
    outcome, _ = trained("--c")
    assert outcome.code == 0
    assert "The training of this fold is complete: 2 of 2 steps" in outcome.err
    assert (folder / LATEST).read_bytes() == before


def test_time_budgets_that_are_alike_in_words_are_told_apart(tmp_path, trained) -> None:
    plan = tiny_plan(training_steps=1)
    prepare(tmp_path, plan)
    found = checkpoint.load(trained()[1] / LATEST)
    begun = replace(found, run=replace(found.run, time_budget=91.0))
    for now, expected in ((91.0, []), (120.0, ["--time_budget was 91 s, is 120 s"])):
        assert agreement.differences(begun, request(tmp_path, plan, time_budget=now)) == expected


def test_set_changes_this_training_alone_and_is_kept_in_its_checkpoint(tmp_path, trained) -> None:
    prepared = prepare(tmp_path, tiny_plan(training_steps=2))
    before = (prepared / "plan.json").read_bytes()
    outcome, folder = trained("--set", "learning_rate=1e-4", "training_steps=1", "accumulate=3")
    assert outcome.code == 0, outcome.err
    found = checkpoint.load(folder / LATEST)
    assert (found.planned.learning_rate, found.run.training_steps, found.run.samples_a_step) == (1e-4, 1, 6)
    assert found.plan.overrides["configurations.bridge.learning_rate"] == 1e-4
    assert (prepared / "plan.json").read_bytes() == before


@pytest.mark.parametrize(("samples", "possible"), [(4, "1 or 2"), (3, None)])
def test_going_on_needs_processes_that_can_share_a_step_as_it_was_begun(samples, possible, tmp_path) -> None:
    """In batches of two; here there is one process."""
    plan = tiny_plan(training_steps=2)
    prepare(tmp_path, plan)
    folder = train(request(tmp_path, plan))
    found = checkpoint.load(folder / LATEST)
    found.run = run_of(found.planned, samples_a_step=samples)
    checkpoint.save(folder / LATEST, found)
    if possible:
        train(request(tmp_path, plan, go_on=True))
    else:
        with pytest.raises(NndiffError, match=r"3 samples in batches of 2; found 1 processes"):
            train(request(tmp_path, plan, go_on=True))


def test_cases_that_are_not_prepared_or_by_another_plan_are_refused(tmp_path, trained) -> None:
    plan = tiny_plan()
    folder = prepare(tmp_path, plan)
    store.write_case(folder / "bridge", "case_3", arrays(3, plan), {"group": "case_3", "preparation": "other"})
    outcome, results = trained()
    assert outcome.code == 1
    assert "case_3 does not match the plan" in outcome.err
    assert "nndiff_preprocess -d 001 -c bridge" in outcome.err
    assert not results.exists()
    for path in (folder / "bridge").iterdir():
        path.unlink()
    assert "No case has been preprocessed" in trained()[0].err
    assert "no configuration 'bridg'" in trained(name="bridg")[0].err


# ---------------------------------------------------------------- a budget of time, for real


class Enough(Exception):
    """Stops a run once it has settled."""


def stopped(*_: Any) -> None:
    raise Enough


def test_a_time_budget_becomes_a_number_of_steps_that_is_kept(tmp_path, monkeypatch) -> None:
    """The rehearsal leaves no trace but that number: the weights are those of a run without a budget."""
    plan: Plan = tiny_plan()
    prepare(tmp_path, plan)
    prepare(tmp_path / "other", plan)
    monkeypatch.setattr(run, "epochs", stopped)
    with pytest.raises(Enough):
        train(request(tmp_path, plan, time_budget=600.0))
    with pytest.raises(Enough):
        train(request(tmp_path / "other", plan))
    folder = request(tmp_path, plan).folder
    first = checkpoint.load(folder / LATEST)
    plain = checkpoint.load(request(tmp_path / "other", plan).folder / LATEST)
    assert first.step == 0
    assert first.run.training_steps > 100
    log = (folder / "log.txt").read_text()
    assert f"so {first.run.training_steps} steps fit into 10 min (planned without a time budget: 6)" in log
    for one, other in ((first.weights, plain.weights), (first.ema, plain.ema)):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert first.optimizer["state"] == {}
    with pytest.raises(Enough):
        train(request(tmp_path, plan, go_on=True))
    assert f"steps 0 to {first.run.training_steps}" in (folder / "log.txt").read_text()
    assert [path.name for path in folder.iterdir() if path.name.startswith(PART)] == []


def test_a_budget_spent_before_the_first_step_is_refused(tmp_path) -> None:
    plan = tiny_plan()
    prepare(tmp_path, plan)
    with pytest.raises(NndiffError, match="too short"):
        train(request(tmp_path, plan, time_budget=1e-3))
    assert not (request(tmp_path, plan).folder / LATEST).exists()


def test_a_restart_that_cannot_begin_leaves_the_earlier_training_where_it_was(tmp_path, trained) -> None:
    prepare(tmp_path, tiny_plan(training_steps=2))
    _, folder = trained()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outcome, _ = trained("--restart", "--time_budget", "0.001s")
    assert outcome.code == 1
    assert "too short" in outcome.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (folder.parent / "earlier").exists()
    assert trained("--c")[0].code == 0


def test_the_same_words_go_on_with_what_they_began(tmp_path, trained) -> None:
    """Also where plan.json is another by now, as far as that does not change the training."""
    prepared = prepare(tmp_path, tiny_plan(training_steps=4))
    words = ("--set", "learning_rate=1e-4", "--seed", "3")
    _, _folder = trained(*words)
    plan = read_json(prepared / "plan.json")
    plan["configurations"]["bridge"]["predicted"]["training_bytes"] += 1
    plan["configurations"]["bridge"]["budget"]["memory_bytes"] += 1
    write_json(prepared / "plan.json", plan)
    outcome, _ = trained(*words)
    assert outcome.code == 0, outcome.err
    plan["configurations"]["bridge"]["warmup_steps"] += 1
    write_json(prepared / "plan.json", plan)
    outcome, _ = trained(*words)
    assert outcome.code == 1
    assert "warmup_steps was" in outcome.err
    assert trained("--c")[0].code == 0


def test_restart_begins_anew_and_keeps_the_earlier_training(tmp_path, trained) -> None:
    prepare(tmp_path, tiny_plan(training_steps=2))
    _, folder = trained()
    first = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for number in (1, 2):
        outcome, _ = trained("--restart", "--seed", str(number))
        assert outcome.code == 0, outcome.err
        aside = folder.parent / "earlier" / f"fold_0_{number}"
        assert str(aside) in outcome.err
        assert checkpoint.load(folder / LATEST).run.seed == number
    earlier = folder.parent / "earlier" / "fold_0_1"
    assert {path.name: path.read_bytes() for path in earlier.iterdir() if path.is_file()} == first
    assert (earlier / "validation").is_dir()
    with pytest.raises(NndiffError, match="both go on and begin anew"):
        nndiff.train("1", "bridge", 0, resume=True, restart=True, device="cpu")


def test_a_restart_that_is_killed_half_way_has_not_lost_the_training(tmp_path, monkeypatch) -> None:
    for name in (BEST, LATEST, "log.txt", "zzz"):
        (tmp_path / "fold_0").mkdir(exist_ok=True)
        (tmp_path / "fold_0" / name).write_text(name)
    moved = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: moved.append(path.name) or rename(path, to))
    checkpoints.set_aside(tmp_path / "fold_0")
    assert moved[-1] == LATEST
    assert checkpoints.set_aside(tmp_path / "fold_0") is None
