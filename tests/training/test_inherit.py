"""Coarse to fine: the same transformer says the same of a volume whose voxels were each repeated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nndiff import checkpoint
from nndiff.assemble import build_network, set_trained
from nndiff.checkpoint import BEST, LATEST
from nndiff.families import NetworkSpec
from nndiff.networks.prdit import unfold
from nndiff.sampling.translate import build_model
from nndiff.training import new_run, run
from nndiff.training.inherit import inherit
from nndiff.training.loop import Trainer
from nndiff.training.ranks import Ranks
from nndiff.training.run import train
from nndiff.words.errors import NndiffError
from tests.training.tiny import CPU, prepare, request, run_of, tiny_plan

COARSE = NetworkSpec("prdit", 2, 2, 24, (1,), ((6, 6, 4),), ((4, 4, 2),), 2, 0, "none", answers=2)
FINE = replace(COARSE, kernels=((12, 12, 4),), strides=((8, 8, 2),), recompute="blocks")


def network(spec: NetworkSpec, seed: int):  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    built = build_network(spec, (1, 1, 1))
    for weight in built.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return built


def repeated(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_the_whole_part_says_of_a_finer_volume_what_it_said_of_the_coarse_one() -> None:
    coarse, fine = network(COARSE, 0), network(FINE, 1)
    found = inherit(FINE, fine.state_dict(), COARSE, coarse.state_dict())
    fine.load_state_dict(found.weights)
    x, t = torch.randn(2, 2, 12, 8, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0.2, 0.9])
    for built in (coarse, fine):
        for weight in built.core.local.parameters():
            torch.nn.init.zeros_(weight)
    # the margins mirror another row of a repeated volume: look at the inner blocks' tokens alone
    coarse_x = x.clone()
    coarse_x[:, :, [0, 1, 2, -1, -2, -3]] = 0
    coarse_x[:, :, :, [0, 1, 2, -1, -2, -3]] = 0
    torch.testing.assert_close(fine(repeated(coarse_x), t), repeated(coarse(coarse_x, t)), rtol=1e-4, atol=1e-5)
    assert found.anew == tuple(name for name in found.weights if name.startswith("core.local."))
    assert found.taken == len(found.weights) - len(found.anew)


def test_the_same_network_is_taken_whole() -> None:
    one, other = network(COARSE, 0), network(COARSE, 1)
    found = inherit(COARSE, one.state_dict(), replace(COARSE, recompute="blocks"), other.state_dict())
    assert not found.anew
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in found.weights.items())


@pytest.mark.parametrize("size", [8, 10, 14])
def test_where_margins_do_not_double_the_inner_voxels_are_read_as_before(size) -> None:
    fine = replace(FINE, kernels=((size, size, 4),))
    theirs = network(COARSE, 0).state_dict()
    found = inherit(fine, network(fine, 1).state_dict(), COARSE, theirs)
    assert all(name.startswith("core.local.") for name in found.anew)
    name = "core.whole.beside.weight"
    coarse, ours = theirs[name].reshape(-1, 2, 6, 6, 4), found.weights[name].reshape(-1, 2, size, size, 4)
    middle = slice(size // 2 - 4, size // 2 + 4)
    torch.testing.assert_close(ours[:, :, middle, middle], repeated(coarse)[:, :, 2:10, 2:10] / 4)
    if size == 14:
        assert not ours[:, :, 0].any()


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
        assert trainer.network.core.whole(unfold(torch.cat([x, x], 1), *token_of(plan)), t).any()


def token_of(plan):  # type: ignore[no-untyped-def]
    spec = plan.configurations["prdit"].network
    return spec.kernels[0], spec.strides[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 48},
        {"blocks": 3},
        {"in_channels": 3},
        {"out_channels": 1},
        {"answers": 1},
        {"name": "unet"},
        {"strides": ((3, 4, 2),)},
    ],
)
def test_what_does_not_fit_is_refused(changes) -> None:
    with pytest.raises(NndiffError):
        inherit(FINE, {}, replace(COARSE, **changes), {})


@pytest.mark.parametrize(
    "changes",
    [
        {"multipliers": (1, 4)},
        {"kernels": ((1, 3, 3), (3, 3, 3))},
        {"strides": ((1, 1, 1), (1, 2, 2))},
        {"head_width": 8},
        {"mix": "haar"},
        {"skip": (1,)},
    ],
)
def test_a_unet_begins_with_its_own_kind_alone(changes) -> None:
    unet = NetworkSpec("unet", 2, 1, 4, (1, 2), ((3, 3, 3),) * 2, ((1, 1, 1), (2, 2, 2)), 1, 0, "none")
    with pytest.raises(NndiffError, match=next(iter(changes))):
        inherit(unet, {}, replace(unet, **changes), {})


def test_a_training_begins_with_another_runs_mean_weights_and_goes_on_by_itself(tmp_path) -> None:
    plan = tiny_plan(("prdit",), training_steps=10)
    prepare(tmp_path, plan)
    first = train(request(tmp_path, plan, "prdit"))
    asked = request(tmp_path / "next", plan, "prdit", begin_with=first / BEST)
    prepare(tmp_path / "next", plan)
    folder = train(asked)
    theirs = checkpoint.load(first / BEST).ema
    assert f"Begun with {len(theirs)} of {len(theirs)} weights" in (folder / "log.txt").read_text()
    plain = train(replace(asked, results=tmp_path / "plain", begin_with=None))
    ours, anew = (checkpoint.load(path / LATEST).weights for path in (folder, plain))
    assert any(not torch.equal(value, anew[name]) for name, value in ours.items())


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
