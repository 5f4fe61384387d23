"""Tests of a training that starts with the weights of another run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nndiff import checkpoint
from nndiff.assemble import set_trained
from nndiff.checkpoint import BEST, LATEST, Seen, of_another
from nndiff.handover import Request, export
from nndiff.handover.install import install
from nndiff.networks.prdit import unfold
from nndiff.sampling.translate import build_model
from nndiff.training import new_run, run
from nndiff.training.inherit import begin
from nndiff.training.loop import Trainer
from nndiff.training.ranks import Ranks
from nndiff.training.run import train
from nndiff.words.errors import NndiffError
from nndiff.words.spread import Spread
from tests.training.tiny import CPU, prepare, request, run_of, tiny_plan, trainer_of


def test_before_its_transformer_is_trained_what_is_validated_is_what_predicts(tmp_path) -> None:
    """In the first stage the inherited transformer speaks, in training as in prediction."""
    plan = tiny_plan(("prdit",), training_steps=10)
    prepare(tmp_path, plan)
    first = checkpoint.load(train(request(tmp_path, plan, "prdit")) / BEST)
    trainer = Trainer(plan, "prdit", run_of(plan.configurations["prdit"]), CPU, Ranks())
    trainer.begin_with(first.ema)
    set_trained(trainer.network, "core.local")
    predicting = build_model(plan, "prdit", [trainer.ema.values], CPU).networks[0]
    x, t = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.4])
    with torch.no_grad():
        assert torch.equal(trainer.network(x, t, x), predicting(x, t, x))
        assert trainer.network.core.whole(unfold(torch.cat([x, x, x], 1), *token_of(plan)), t).any()


def token_of(plan):  # type: ignore[no-untyped-def]
    spec = plan.configurations["prdit"].network
    return spec.token, spec.block


def test_a_training_begins_with_another_runs_mean_weights_and_goes_on_by_itself(tmp_path) -> None:
    plan = tiny_plan(("prdit",), training_steps=10)
    prepare(tmp_path, plan)
    first = train(request(tmp_path, plan, "prdit"))
    asked = request(tmp_path / "next", plan, "prdit", begin_with=first / BEST)
    prepare(tmp_path / "next", plan)
    folder = train(asked)
    theirs = checkpoint.load(first / BEST).ema
    log = (folder / "log.txt").read_text()
    assert f"Started with {len(theirs)} of {len(theirs)} weights" in log
    assert "another mean and std" not in log
    plain = train(replace(asked, results=tmp_path / "plain", begin_with=None))
    ours, anew = (checkpoint.load(path / LATEST).weights for path in (folder, plain))
    assert any(not torch.equal(value, anew[name]) for name, value in ours.items())


def test_a_start_from_sources_of_another_mean_and_std_is_told(tmp_path) -> None:
    plan = tiny_plan(training_steps=2)
    other = tiny_plan(training_steps=2, network={"sources": (Spread(0.3, 2.0),)})
    for folder, own in (("one", plan), ("other", other)):
        prepare(tmp_path / folder, own)
    first = train(request(tmp_path / "one", plan))
    folder = train(request(tmp_path / "other", other, begin_with=first / BEST))
    assert "sources of another mean and std" in (folder / "log.txt").read_text()


def test_another_puzzle_is_refused_even_where_every_shape_agrees(tmp_path) -> None:
    """Pieces along one axis are no pieces along another."""
    plans = [tiny_plan(puzzle_factor=factor, training_steps=1) for factor in ((1, 1, 2), (2, 1, 1))]
    for folder, plan in zip((tmp_path / "one", tmp_path / "other"), plans, strict=True):
        prepare(folder, plan)
    first = train(request(tmp_path / "one", plans[0]))
    with pytest.raises(NndiffError, match="another puzzle"):
        train(request(tmp_path / "other", plans[1], begin_with=first / BEST))


def test_the_rehearsal_takes_the_steps_that_will_be_taken(tmp_path, monkeypatch) -> None:
    """A transformer that was inherited speaks from the first step on, and takes its time."""
    plan = tiny_plan(("prdit",), training_steps=10)
    prepare(tmp_path, plan)
    first = train(request(tmp_path, plan, "prdit"))
    begun: list[Trainer] = []
    begin_with = Trainer.begin_with

    def counted(self: Trainer, weights) -> None:  # type: ignore[no-untyped-def]
        begun.append(self)
        begin_with(self, weights)

    monkeypatch.setattr(Trainer, "begin_with", counted)
    monkeypatch.setattr(new_run, "within_budget", lambda settled, *_: settled)
    monkeypatch.setattr(run, "epochs", lambda *_: ())
    prepare(tmp_path / "next", plan)
    train(request(tmp_path / "next", plan, "prdit", begin_with=first / BEST, time_budget=1.0))
    stages = [trainer.configuration.stages for trainer in begun]
    assert [len(of) for of in stages] == [1, 1, 2], "each stage's rehearsal, then the training"


# ---------------------------------------------------------------- from a model that was handed on


@pytest.fixture(scope="module")
def handed_on(tmp_path_factory):
    """A trained fold, and the archive of three folds of which it is the first."""
    plan, folder = tiny_plan(training_steps=2), tmp_path_factory.mktemp("theirs")
    prepare(folder, plan)
    seen = (Seen("PET", (1.0, 2.0), (0.0, 0.0)),)
    first = train(request(folder, plan, seen=seen))
    found = checkpoint.load(first / BEST)
    for fold in ("1", "2"):
        ema = {name: value + int(fold) for name, value in found.ema.items()}
        run = replace(found.run, fold=fold)
        checkpoint.save(first.parent / f"fold_{fold}" / BEST, replace(found, run=run, ema=ema))
    return plan, first, export(Request(first.parent, folder / "model.zip")).path


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize(("fold", "theirs"), [("2", "2"), ("4", "0"), ("all", "0")])
def test_a_training_begins_with_the_same_fold_of_an_archive_or_with_its_first(
    tmp_path, handed_on, fold, theirs, installed
) -> None:
    plan, first, path = handed_on
    path = install(path, "one", tmp_path / "models").folder if installed else path
    trainer = trainer_of(plan, fold=fold)
    assert of_another(str(path), tmp_path / "results", fold) == path
    said = begin(trainer, of_another(path, tmp_path / "results", fold))
    weights = checkpoint.load(first.parent / f"fold_{theirs}" / BEST).ema
    assert f"Started with {len(weights)} of {len(weights)} weights" in said
    assert str(path / f"fold_{theirs}.safetensors") in said
    for name, value in trainer.weights.items():
        assert torch.equal(value, weights[name]), name


def test_a_training_from_an_archive_is_one_from_its_checkpoint(tmp_path, handed_on) -> None:
    plan, first, path = handed_on
    prepare(tmp_path / "mine", plan)
    asked = request(tmp_path / "mine", plan, begin_with=path)
    ours = checkpoint.load(train(asked) / LATEST)
    same = checkpoint.load(train(replace(asked, results=tmp_path / "same", begin_with=first / BEST)) / LATEST)
    plain = checkpoint.load(train(replace(asked, results=tmp_path / "plain", begin_with=None)) / LATEST)
    assert all(torch.equal(value, same.weights[name]) for name, value in ours.weights.items())
    assert any(not torch.equal(value, plain.weights[name]) for name, value in ours.weights.items())


def test_an_archive_of_another_network_is_refused_and_one_that_is_missing(tmp_path, handed_on) -> None:
    _, _, path = handed_on
    with pytest.raises(NndiffError, match="do not fit this network"):
        begin(trainer_of(tiny_plan(network={"width": 8})), path)
    missing = of_another(tmp_path / "none.zip", tmp_path, "0")
    with pytest.raises(NndiffError, match=r"none\.zip is missing"):
        begin(trainer_of(tiny_plan()), missing)
