"""Tests of the parts of the training loop: times, learning rate, stages, masks, accumulation, and NaN gradients."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

from nndiff import checkpoint
from nndiff.assemble import build_objective, formulation_of, set_trained
from nndiff.checkpoint import Run
from nndiff.diffusion.losses import Squared
from nndiff.diffusion.objectives import AT_THE_SOURCE, Denoising
from nndiff.diffusion.prediction import PREDICTIONS
from nndiff.diffusion.process import PROCESSES, Process
from nndiff.plans.plan import Configuration, Plan, Stage
from nndiff.training.batches import Batch
from nndiff.training.loop import (
    LAST_RATE,
    OUTSIDE_MASK,
    Trainer,
    noise,
    rate_at,
    share_of,
    stage_at,
    stage_ends,
    times,
    weight_of,
)
from nndiff.training.ranks import Ranks
from nndiff.words.errors import NndiffError
from nndiff.words.scheme import Scheme
from tests.training.tiny import CPU, SHAPE, arrays, batch_of, run_of, state_of, tiny_plan, trainer_of

GRADIENT, SQUARED = Scheme("gradient", {}), Scheme("squared", {})


# ---------------------------------------------------------------- times


def denoising(process: Process) -> Denoising:
    return Denoising(process, PREDICTIONS["x0"](), Squared())


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_one_steps_samples_are_spread_over_all_times_however_they_are_shared_out(name) -> None:
    """Stratified: sorted by share, neighbours lie 1/G apart."""
    process, group = PROCESSES[name](), 8
    whole = times(denoising(process), range(16, 24), seed=3, samples_a_step=group)
    assert whole.dtype == torch.float64
    parts = [times(denoising(process), [n], seed=3, samples_a_step=group) for n in range(16, 24)]
    assert torch.equal(torch.cat(parts), whole)
    at_once = denoising(process).time_of(0.0) == denoising(process).time_of(0.2)  # a bridge's
    assert len(set(whole.tolist())) == (7 if at_once else 8)
    ranked = sorted(t for t in whole.tolist() if t < 1) if at_once else sorted(whole.tolist())
    gap = 1 / group / (1 - AT_THE_SOURCE) if at_once else 1 / group
    tolerance = 1.01e-3 if name == "ddpm" else 1e-9
    assert [b - a for a, b in pairwise(ranked)] == pytest.approx([gap] * (len(ranked) - 1), abs=tolerance)


def test_times_and_noises_come_from_seed_and_sample_number() -> None:
    process, shape = PROCESSES["rectified"](), torch.Size((1, 4, 4, 4))
    assert len({float(times(denoising(process), [n], seed, 1)) for n in range(20) for seed in range(3)}) == 60
    assert torch.equal(noise(shape, 0, 7, CPU), noise(shape, 0, 7, CPU))
    assert len({float(noise(shape, seed, n, CPU)[0, 0, 0, 0]) for n in range(20) for seed in range(3)}) == 60
    assert float(noise(torch.Size((1, 40, 40, 40)), 0, 0, CPU).std()) == pytest.approx(1, abs=0.02)


# ---------------------------------------------------------------- learning rate and stages


def test_the_rate_warms_up_evenly_and_falls_along_half_a_cosine() -> None:
    rates = [rate_at(k, 1100, 100) for k in range(1100)]
    assert rates[:100] == pytest.approx([(k + 1) / 100 for k in range(100)])
    assert rates[100] == 1.0
    assert rates[600] == pytest.approx((1 + LAST_RATE) / 2)
    assert rates[-1] == pytest.approx(LAST_RATE, abs=1e-5)
    assert rates[100:] == sorted(rates[100:], reverse=True)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 1000), (2, 1000), (7, 1000), (5, 0), (4, 2)])
def test_a_short_training_still_reaches_the_full_rate(steps, warmup) -> None:
    rates = [rate_at(k, steps, warmup) for k in range(steps)]
    assert max(rates) == 1.0
    assert min(rates) > 0


def staged(*stages: Stage, steps: int = 10) -> tuple[Configuration, Run]:
    configuration = replace(tiny_plan().configurations["bridge"], stages=stages, training_steps=steps)
    return configuration, run_of(configuration)


def test_stages_divide_the_steps_by_their_shares_each_with_its_own_warm_up() -> None:
    first, second = Stage("all", GRADIENT, 3.0), Stage("all", SQUARED, 1.0)
    configuration, run = staged(first, second, steps=40)
    found = [stage_at(configuration, run, step) for step in range(40)]
    assert [configuration.stages[number] for number, _, _ in found] == [first] * 30 + [second] * 10
    assert [begun for _, begun, _ in found] == [0] * 30 + [30] * 10
    full = configuration.learning_rate
    assert [rate for _, _, rate in found] == pytest.approx(
        [full * rate_at(k, 30, 2) for k in range(30)] + [full * rate_at(k, 10, 2) for k in range(10)]
    )


def test_a_stage_ends_with_the_step_nearest_to_its_share() -> None:
    for shares, expected in (((1.0, 2.0), [3, 10]), ((2.0, 1.0), [7, 10]), ((0.4, 0.6), [4, 10])):
        assert stage_ends(*staged(*(Stage("all", SQUARED, share) for share in shares))) == expected


@pytest.mark.parametrize("shares", [(0.1,) * 10, (1, 1e-9), (1 / 3, 1 / 3, 1 / 3)])
def test_every_step_belongs_to_a_stage_and_the_last_ends_with_the_run(shares) -> None:
    configuration, run = staged(*(Stage("all", GRADIENT, share) for share in shares), steps=7)
    order = [stage_at(configuration, run, step)[0] for step in range(7)]
    assert order == sorted(order)
    assert all(stage_at(configuration, run, step)[2] > 0 for step in range(7))


def two_stages(**words: object) -> Plan:
    stages = (Stage("core.head", GRADIENT, 0.5), Stage("core.stem", SQUARED, 0.5))
    return tiny_plan(stages=stages, training_steps=4, **words)


def test_what_a_stage_does_not_train_stays_bit_by_bit_and_the_loss_changes_with_the_stage() -> None:
    plan = two_stages()
    trainer = trainer_of(plan)
    step = trainer.steps([batch_of(plan, [2 * i, 2 * i + 1])] for i in range(4))
    for part, steps in (("core.head.", 2), ("core.stem.", 2)):
        trainer.network.load_state_dict(trainer.ema.values if trainer.step else trainer.weights)
        before = {name: value.clone() for name, value in trainer.weights.items()}
        for _ in range(steps):
            batch = batch_of(plan, [2 * trainer.step, 2 * trainer.step + 1])
            stage = Stage("all", GRADIENT if part == "core.head." else SQUARED, 1.0)
            objective = build_objective(stage, formulation_of(trainer.configuration))
            expected = trainer.loss(trainer.network, objective, batch).item()
            assert next(step).loss == expected
        moved = {name for name, value in trainer.weights.items() if not torch.equal(value, before[name])}
        assert moved == {name for name in before if name.startswith(part)}
    assert next(step, None) is None


def test_a_stage_builds_on_the_mean_of_the_one_before_and_its_own_mean_begins_anew() -> None:
    plan = two_stages(ema_half_life=10_000)
    trainer = trainer_of(plan)
    step = trainer.steps([batch_of(plan, [2 * i, 2 * i + 1])] for i in range(4))
    next(step)
    next(step)
    mean = {name: value.clone() for name, value in trainer.ema.values.items()}
    assert any(not torch.equal(value, mean[name]) for name, value in trainer.weights.items())
    next(step)
    for name, value in trainer.weights.items():
        if name.startswith("core.stem."):  # its first step: (1 + 1) of (10 + 1) parts are old, whatever the half-life
            expected = torch.lerp(mean[name], value, 1 - 2 / 11)
            torch.testing.assert_close(trainer.ema.values[name], expected)
        else:
            assert torch.equal(value, mean[name])


@pytest.mark.parametrize("part", ["core.head", "core.stem"])
def test_a_stage_hands_over_once_even_to_one_like_itself(part, monkeypatch) -> None:
    plan = tiny_plan(stages=(Stage("core.stem", SQUARED, 0.5), Stage(part, SQUARED, 0.5)), training_steps=4)
    trainer, handed = trainer_of(plan), []
    monkeypatch.setattr(trainer, "_hand_over", lambda: handed.append(trainer.step))
    assert len(list(trainer.steps([batch_of(plan, [2 * i, 2 * i + 1])] for i in range(4)))) == 4
    assert handed == [2]


def test_a_stage_may_train_a_part_on_many_ranks(tmp_path) -> None:
    """Ranks exchange the gradients of what trains now, here with one peer alone."""
    plan = two_stages()
    configuration = plan.configurations["bridge"]
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wrapped = Trainer(plan, "bridge", run_of(configuration), CPU, Ranks(0, 2))
        alone = trainer_of(plan)
        for trainer in (wrapped, alone):
            assert len(list(trainer.steps([batch_of(plan, [2 * i, 2 * i + 1])] for i in range(4)))) == 4
    finally:
        distributed.destroy_process_group()
    for name, value in wrapped.weights.items():
        torch.testing.assert_close(value, alone.weights[name])


def test_a_part_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(NndiffError, match=r"all, aside, core; found cor$"):
        set_trained(trainer_of(tiny_plan()).network, "cor")


def test_training_all_thaws_what_an_earlier_stage_froze() -> None:
    network = trainer_of(tiny_plan()).network
    set_trained(network, "core.head")
    assert not all(weight.requires_grad for weight in network.parameters())
    set_trained(network, "all")
    assert all(weight.requires_grad for weight in network.parameters())


# ---------------------------------------------------------------- a step


def masked(plan: Plan, loss: Scheme, mask: torch.Tensor | None) -> float:
    trainer = trainer_of(plan)
    objective = build_objective(Stage("all", loss, 1.0), trainer.formulation)
    return trainer.loss(trainer.network, objective, batch_of(plan, [0, 1], mask)).item()


@pytest.mark.parametrize("loss", [GRADIENT, SQUARED], ids=lambda loss: loss.name)
@pytest.mark.parametrize("name", ["bridge", "prdit"])
def test_an_error_outside_the_mask_counts_a_tenth(name: str, loss: Scheme) -> None:
    """Whatever the loss, and however many answers there are per target."""
    plan = tiny_plan((name,))
    plan = replace(plan, configurations={"bridge": plan.configurations[name]})
    everywhere = torch.ones(2, 1, *SHAPE, dtype=torch.bool)
    half = everywhere.clone()
    half[..., 4:] = False
    plain = masked(plan, loss, None)
    assert masked(plan, loss, everywhere) == pytest.approx(plain)
    assert masked(plan, loss, ~everywhere) == pytest.approx(0.1 * plain)
    inside, outside = masked(plan, loss, half), masked(plan, loss, ~half)
    if loss == SQUARED:
        assert inside + outside == pytest.approx((1 + OUTSIDE_MASK) * plain)
    else:  # of the pairs across the rim both count a tenth
        assert inside + outside < (1 + OUTSIDE_MASK) * plain


@pytest.mark.parametrize("loss", [GRADIENT, SQUARED], ids=lambda loss: loss.name)
@pytest.mark.parametrize("masked", [False, True])
def test_the_target_in_the_padding_changes_neither_loss_nor_gradients(loss: Scheme, masked: bool) -> None:
    """At t = 1 of a bridge, where the network does not see the target."""
    plan = tiny_plan()
    inside = torch.ones(2, 1, *SHAPE, dtype=torch.bool)
    inside[0, ..., 5:] = False
    mask = torch.rand(inside.shape) > 0.5 if masked else None

    def learned(marked: bool, size: float) -> tuple[torch.Tensor, ...]:
        trainer = trainer_of(plan)
        objective = build_objective(Stage("all", loss, 1.0), trainer.formulation)
        batch = batch_of(plan, [0, 1], mask, inside if marked else None)
        batch.target[0, ..., 5:] += size
        eps, t = torch.zeros_like(batch.target), torch.ones(2, dtype=torch.float64)
        value = trainer.loss_at(trainer.network, objective, batch, t, eps)
        return value, *torch.autograd.grad(value, list(trainer.network.parameters()), allow_unused=True)

    def equal(*pairs: tuple[torch.Tensor, ...]) -> bool:
        return all((a is None and b is None) or torch.equal(a, b) for a, b in zip(*pairs, strict=True))

    assert equal(learned(True, 0.0), learned(True, 7.0))
    assert not equal(learned(False, 0.0), learned(False, 7.0))


def test_the_weight_is_that_of_the_mask_inside_the_case_and_nothing_in_the_padding() -> None:
    plan = tiny_plan()
    mask, inside = (torch.rand(2, 1, *SHAPE) > 0.5 for _ in range(2))
    expected = torch.where(mask, 1.0, OUTSIDE_MASK)
    assert weight_of(batch_of(plan, [0, 1])) is None
    assert torch.equal(weight_of(batch_of(plan, [0, 1], mask)), expected)
    assert torch.equal(weight_of(batch_of(plan, [0, 1], None, inside)), inside.float())
    assert torch.equal(weight_of(batch_of(plan, [0, 1], mask, inside)), expected.masked_fill(~inside, 0.0))


def test_two_batches_of_one_make_the_step_of_one_batch_of_two() -> None:
    plan = tiny_plan(("bridge", "ddpm"))
    for name in ("bridge", "ddpm"):
        together, apart = trainer_of(plan, name), trainer_of(plan, name)
        a = list(together.steps([batch_of(plan, [2 * i, 2 * i + 1])] for i in range(5)))
        b = list(apart.steps([batch_of(plan, [2 * i]), batch_of(plan, [2 * i + 1])] for i in range(5)))
        for one, other in zip(a, b, strict=True):
            assert (one.number, one.learning_rate) == (other.number, other.learning_rate)
            assert one.loss == pytest.approx(other.loss, rel=1e-5)
            assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
        for key, value in together.weights.items():
            torch.testing.assert_close(apart.weights[key], value, rtol=1e-5, atol=1e-5)


def test_a_gradient_that_is_no_number_stops_before_the_step() -> None:
    plan = tiny_plan(precision="bf16")
    trainer = trainer_of(plan)
    batches = [[batch_of(plan, [0, 1])], [batch_of(plan, [2, 3])]]
    batches[1][0].target[0, 0, 0, 0, 0] = math.nan
    steps = trainer.steps(batches)
    next(steps)
    weights = {name: value.clone() for name, value in trainer.weights.items()}
    mean = {name: value.clone() for name, value in trainer.ema.values.items()}
    with pytest.raises(NndiffError, match=r"gradient of step 2(.|\n)*learning_rate=(.|\n)*precision=fp32"):
        next(steps)
    assert trainer.step == 1
    assert all(torch.equal(value, weights[name]) for name, value in trainer.weights.items())
    assert all(torch.equal(value, mean[name]) for name, value in trainer.ema.values.items())


def test_a_gradient_is_clipped_and_its_own_length_told() -> None:
    plan = tiny_plan()
    trainer, batch = trainer_of(plan), batch_of(plan, [0, 1])
    batch.target.mul_(1000)
    (step,) = trainer.steps([[batch]])
    assert step.gradient_norm > 2
    length = math.sqrt(sum(float(w.grad.square().sum()) for w in trainer.network.parameters() if w.grad is not None))
    assert length == pytest.approx(1.0, rel=1e-4)


def test_the_loop_goes_on_from_where_it_was_put_back() -> None:
    plan = tiny_plan()
    batches = [[batch_of(plan, [2 * i, 2 * i + 1])] for i in range(6)]
    whole, begun, resumed = trainer_of(plan), trainer_of(plan), trainer_of(plan)
    expected = [step.loss for step in whole.steps(batches)]
    losses = [step.loss for step in begun.steps(batches[:3])]
    resumed.restore(state_of(begun, plan))
    losses += [step.loss for step in resumed.steps(batches[3:])]
    assert losses == expected
    assert all(torch.equal(value, whole.weights[name]) for name, value in resumed.weights.items())
    assert all(torch.equal(value, whole.ema.values[name]) for name, value in resumed.ema.values.items())


@pytest.mark.parametrize("at", [1, 2, 3])
def test_within_a_stage_and_between_two_it_goes_on_from_where_it_was_put_back(at) -> None:
    plan = two_stages(ema_half_life=10_000)
    batches = [[batch_of(plan, [2 * i, 2 * i + 1])] for i in range(4)]
    whole, begun, resumed = trainer_of(plan), trainer_of(plan), trainer_of(plan)
    expected = [step.loss for step in whole.steps(batches)]
    losses = [step.loss for step in begun.steps(batches[:at])]
    resumed.restore(state_of(begun, plan))
    losses += [step.loss for step in resumed.steps(batches[at:])]
    assert losses == expected
    assert all(torch.equal(value, whole.weights[name]) for name, value in resumed.weights.items())


def test_a_training_begins_with_the_weights_given_and_so_does_their_mean() -> None:
    given, trainer = trainer_of(tiny_plan(), seed=1).weights, trainer_of(tiny_plan())
    trainer.begin_with(given)
    for held in (trainer.weights, trainer.ema.values):
        assert all(torch.equal(value, given[name]) for name, value in held.items())


@pytest.mark.parametrize(("prediction", "share"), [(None, 0.5), ("x0", 0.25)])
def test_it_learns(prediction: str | None, share: float) -> None:
    """One case, one time, again and again: the loss falls to a fraction."""
    plan = tiny_plan(prediction=prediction, training_steps=150, learning_rate=5e-3, warmup_steps=5)
    trainer = trainer_of(plan)
    case = {key: torch.from_numpy(value)[None] for key, value in arrays(0, plan).items()}
    batches = ([Batch([0], case["source"], case["target"], None, None)] for _ in range(150))
    losses = [step.loss for step in trainer.steps(batches)]
    assert losses[-1] < share * losses[0]  # x0: 0.04 to 0.17 over twelve seeds; fused: at most 0.27 over six


def test_what_was_put_back_is_a_copy_of_nothing(tmp_path: Path) -> None:
    """A trainer that goes on never changes the checkpoint that it was put back from."""
    plan = tiny_plan()
    begun, resumed = trainer_of(plan), trainer_of(plan, seed=1)
    assert len(list(begun.steps([[batch_of(plan, [0, 1])]]))) == 1
    found = state_of(begun, plan)
    checkpoint.save(tmp_path / "x.pt", found)
    resumed.restore(loaded := checkpoint.load(tmp_path / "x.pt"))
    assert len(list(resumed.steps([[batch_of(plan, [2, 3])]]))) == 1
    assert all(torch.equal(value, found.weights[name]) for name, value in loaded.weights.items())


def test_ranks_replace_accumulated_batches_then_enlarge_the_step() -> None:
    configuration = replace(tiny_plan().configurations["bridge"], batch_size=3, accumulate=4)
    shares = [share_of(configuration, Ranks(0, world)) for world in (1, 2, 3, 4, 8)]
    assert [share.accumulate for share in shares] == [4, 2, 2, 1, 1]
    assert [share.samples_a_step for share in shares] == [12, 12, 18, 12, 24]


@pytest.mark.parametrize(("begun", "now"), [(4, 2), (2, 4), (4, 1), (1, 4), (3, 1)])
def test_a_step_has_the_same_samples_with_another_number_of_ranks(begun: int, now: int) -> None:
    configuration = replace(tiny_plan().configurations["bridge"], batch_size=3, accumulate=4)

    def samples(world: int, wanted: int | None) -> list[int]:
        shares = [share_of(configuration, Ranks(rank, world), wanted) for rank in range(world)]
        return sorted(number for share in shares for numbers in share.numbers(step=7) for number in numbers)

    first = samples(begun, None)
    assert samples(now, len(first)) == first


def test_the_seed_decides_the_first_weights(tmp_path: Path) -> None:
    plan = tiny_plan()
    first, same, other = trainer_of(plan), trainer_of(plan), trainer_of(plan, seed=1)
    assert all(torch.equal(value, same.weights[name]) for name, value in first.weights.items())
    assert any(not torch.equal(value, other.weights[name]) for name, value in first.weights.items())


def test_a_step_reads_its_loss_and_its_norm_from_the_device_together() -> None:
    class Counted(TorchDispatchMode):
        reads = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.reads += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    plan = tiny_plan()
    steps = trainer_of(plan).steps([[batch_of(plan, [2 * i, 2 * i + 1])] for i in range(2)])
    next(steps)
    with Counted() as counted:
        next(steps)
    assert counted.reads == 0, "each is a wait for the device, beside the one for both figures"
