"""Tests of predicted memory: it grows and shrinks as it must, equals hand counts, and agrees with a small real step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from inspect import unwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from nndiff.assemble import build_network
from nndiff.diffusion.losses import Loss
from nndiff.diffusion.objectives import OBJECTIVES, Denoising, Network, Objective, Pairs
from nndiff.diffusion.prediction import Prediction
from nndiff.diffusion.process import Process
from nndiff.families import NetworkSpec
from nndiff.plans.plan import Lesson, Stage, Workload
from nndiff.resources import ghosts, memory
from nndiff.resources.memory import (
    Cost,
    feature_bytes,
    prediction_cost,
    reuse_cost,
    shallow_share,
    total_needed,
    training_cost,
    usable_bytes,
    usable_now,
)
from nndiff.words.scheme import Scheme
from nndiff.words.volume import Triple
from tests.walks import prdit, unet

FULL, HALF = (1, 1, 1), (2, 2, 2)
SPEC = unet(width=16)
SEPARATE = 19_966_236  # bytes of a training step of SPEC with norm, film and SiLU as operations of their own
SQUARED = Scheme("squared", {})
LESSON = Lesson(Scheme("bridge", {"gamma": 0.1}), "x0", 0.1, 0.03, (Stage("all", Scheme("gradient", {}), 1.0),))


def work_of(
    spec: NetworkSpec = SPEC,
    factor: Triple = HALF,
    patch: Triple = (48, 48, 48),
    batch: int = 1,
    precision: str = "bf16",
    device: str = "cuda",
) -> Workload:
    return Workload(spec, factor, patch, batch, precision, device)


def train(*size: Any, **words: Any) -> Cost:
    return training_cost(work_of(*size, **words), LESSON)


def predict(*size: Any, **words: Any) -> Cost:
    return prediction_cost(work_of(*size, **words))


def train_tokens(spec: NetworkSpec, patch: Triple, batch: int, *parts: str) -> Cost:
    stages = tuple(Stage(part, SQUARED, 1.0) for part in parts or ("all",))
    return training_cost(
        Workload(spec, FULL, patch, batch, "fp32", "cpu"), Lesson(Scheme("trig", {}), "both", 1.0, 0.0, stages)
    )


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp32"), ("cpu", "bf16"), ("cuda", "bf16")])
def test_more_costs_more(device: str, precision: str) -> None:
    """From a batch of 2 on: a CPU in fp32 can take more for one volume than for two (see _columns)."""
    base: dict[str, Any] = {"precision": precision, "device": device, "batch": 2}
    least = train(**base)
    for more in ({"patch": (49, 48, 48)}, {"patch": (48, 48, 96)}, {"batch": 3}, {"spec": replace(SPEC, width=24)}):
        cost = train(**(base | more))
        assert cost.bytes > least.bytes
        assert cost.flops > least.flops


def test_recomputing_lowers_it_and_norms_cost_no_flops() -> None:
    none, norms, blocks = (train(replace(SPEC, recompute=mode)) for mode in ("none", "norms", "blocks"))
    assert blocks.bytes < norms.bytes < none.bytes
    assert norms.bytes < 0.75 * SEPARATE
    assert none.bytes < 0.85 * SEPARATE
    assert norms.flops == none.flops < blocks.flops


def test_bf16_lowers_it() -> None:
    assert 0.4 < train(patch=(96, 96, 96)).bytes / train(patch=(96, 96, 96), precision="fp32").bytes < 0.65


def test_the_puzzle_lowers_it_as_the_method_claims() -> None:
    spec = replace(SPEC, width=32)
    full, half = (train(spec, factor, (96, 96, 96), 2, "fp32", "cpu") for factor in (FULL, HALF))
    assert 6 <= full.bytes / half.bytes <= 8
    assert 6 <= full.flops / half.flops <= 8


def test_prediction_is_cheaper_than_training() -> None:
    predicted, trained = predict(), train()
    assert predicted.bytes < min(trained.bytes, SEPARATE / 2)
    assert 2.5 < trained.flops / predicted.flops < 3.5


def test_nothing_is_allocated_however_large_the_volume() -> None:
    assert train(patch=(440, 440, 644)).bytes > 2 * 10**9


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_it_never_asks_which_convolution_this_machine_would_take(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str
) -> None:
    """A plan is the same wherever it is made: without bf16 PyTorch takes another kernel, and answers channels first."""

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("PyTorch chose by the processor that runs the trace")

    monkeypatch.setattr(torch._C, "_select_conv_backend", asked)
    patch = (48, 48, 56 + 8 * ["bf16", "fp32"].index(precision))  # of no other test: what is cached asks nobody
    assert train(patch=patch, precision=precision, device=device).flops
    assert predict(patch=patch, precision=precision, device=device).flops


def test_flops_of_the_stem_are_those_of_the_textbook() -> None:
    wide = predict(replace(SPEC, in_channels=3), FULL, (16, 16, 16), precision="fp32").flops
    narrow = predict(SPEC, FULL, (16, 16, 16), precision="fp32").flops
    assert wide - narrow == 2 * 27 * 16 * 16**3  # one more channel into a 3³ convolution of width 16


def test_weights_gradients_moments_and_average_are_counted() -> None:
    """With a tiny patch and a wide network five copies of the weights are nearly all there is."""
    wide = replace(SPEC, width=96)
    with torch.device("meta"):
        weights = 4 * sum(weight.numel() for weight in build_network(wide, FULL).parameters())
    assert 5 * weights < train(wide, FULL, (2, 2, 2), precision="fp32").bytes < 5.3 * weights


def test_one_traced_step_is_as_high_as_the_second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimiser's state counted from the start = what a second step finds there."""
    once = train()

    def twice(network: nn.Module, objective: Objective, batch: memory.Batch, precision: str, *drawn: Any) -> None:
        tracer = next(mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, ghosts.Tracer))
        weights = list(network.parameters())
        tracer.live -= memory.COPIES_BESIDE_WEIGHTS * sum(weight.nbytes for weight in weights)
        optimiser = torch.optim.AdamW(weights, fused=True)
        average = [weight.detach().clone() for weight in weights]
        for _ in range(2):
            optimiser.zero_grad()
            step(network, objective, batch, precision, *drawn)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 0.01)

    step = memory.teach
    monkeypatch.setattr(memory, "teach", twice)
    traced_anew = unwrap(training_cost)
    assert traced_anew(work_of(), LESSON).bytes == pytest.approx(once.bytes, rel=0.005)


@pytest.mark.parametrize(("batch", "planes"), [(1, 160), (3, 24), (2, 130)])
def test_slabs_that_are_alike_need_not_all_be_traced(batch: int, planes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    work = replace(work_of(replace(SPEC, head_width=16), patch=(planes, 96, 96), batch=batch), device="cpu")
    told = training_cost(work, LESSON), prediction_cost(work)
    monkeypatch.setattr(memory, "traced", lambda device, told: nullcontext())
    whole = (unwrap(known)(work, *rest) for known, *rest in ((training_cost, LESSON), (prediction_cost,)))
    assert told == tuple(whole)


def test_a_gpu_has_thicker_slabs() -> None:
    work = work_of(replace(SPEC, head_width=16), patch=(160, 96, 96), batch=2)
    on_gpu, on_cpu = (prediction_cost(replace(work, device=device)).flops for device in ("cuda", "cpu"))
    assert on_gpu < on_cpu  # the planes where slabs overlap are computed twice


def test_a_context_and_the_allocators_overhead_are_not_usable() -> None:
    """On a card 1 GB and a tenth of what is used; elsewhere 30% and half a GB are left to other programs."""
    assert usable_bytes(12 * 10**9, "cuda") == usable_now(11 * 10**9, "cuda") == 10**10
    assert usable_bytes(10**10, "cpu") == usable_bytes(10**10, "mps") == 65 * 10**8
    assert usable_now(10**10, "cpu") == 7 * 10**9


def test_usable_and_needed_are_inverse() -> None:
    for device in ("cuda", "cpu", "mps"):
        for total in (4 * 10**9, 24 * 2**30, 80 * 2**30):
            usable = usable_bytes(total, device)
            assert 0 < usable < total
            assert usable_bytes(total_needed(usable, device), device) >= usable
            assert abs(total_needed(usable, device) - total) < 10
    assert usable_bytes(10**8, "cuda") == usable_bytes(10**8, "cpu") == 0


def test_of_stages_the_dearest_counts_and_what_is_frozen_keeps_nothing_for_its_gradients() -> None:
    tokens = prdit(width=48, depth=4)
    local, whole, both, joint = (
        train_tokens(tokens, (32, 32, 32), 2, *parts)
        for parts in (("core.local",), ("core.whole",), ("core.local", "core.whole"), ("all",))
    )
    assert both.bytes == max(local.bytes, whole.bytes) < joint.bytes
    assert both.flops == max(local.flops, whole.flops) < joint.flops
    alone = train_tokens(replace(tokens, depth=0), (32, 32, 32), 2)
    assert local.flops == alone.flops, "while it is frozen the transformer is not run"


def test_a_transformers_work_counts_its_attention() -> None:
    tokens = prdit(width=64, depth=3)
    few, many = (predict(tokens, FULL, (size, 32, 32), 1, "fp32", "cpu").flops for size in (32, 64))
    attention = 3 * 4 * 64 * 512**2  # blocks · (scores and mixing, 2 each) · width · tokens²
    assert many - 2 * few == pytest.approx(2 * attention, rel=0.01)


def test_a_transformers_memory_grows_no_faster_than_its_tokens() -> None:
    tokens = prdit(width=64, depth=3)
    few, more, most = (train_tokens(tokens, (size, 64, 64), 1).bytes for size in (32, 64, 128))
    assert (most - more) == pytest.approx(2 * (more - few), rel=0.02)


# ---------------------------------------------------------------- kept features


def test_a_step_on_kept_features_costs_less_the_shallower_it_is() -> None:
    work = work_of(replace(SPEC, blocks=2), precision="fp32", device="cpu")
    shares = [shallow_share(work, depth) for depth in (1, 2, 3)]
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    cost, kept = reuse_cost(work, 1), feature_bytes(work, 1)
    assert cost.flops == pytest.approx(shares[0] * prediction_cost(work).flops)
    assert kept > 0
    assert kept % (4 * 24**3) == 0, "whole channels of the puzzle's grid, in fp32"


# ---------------------------------------------------------------- what an objective does is counted


class Asking(Denoising):
    """Asks the network several times."""

    def __init__(self, process: Process, prediction: Prediction, measure: Loss, times: float = 1.0):
        super().__init__(process, prediction, measure)
        self.times = int(times)

    def loss(self, network: Network, batch: Pairs, t: Any, eps: Any, weight: Any) -> Any:
        return sum(super(Asking, self).loss(network, batch, t, eps, weight) for _ in range(self.times))


class Owning(Denoising):
    """Owns a second network, trained or frozen, that sees every target."""

    def __init__(
        self, process: Process, prediction: Prediction, measure: Loss, channels: float = 8, frozen: float = 0.0
    ):
        super().__init__(process, prediction, measure)
        self.second = nn.Conv3d(1, int(channels), 3, padding=1).requires_grad_(not frozen)
        self.register_buffer("scale", torch.ones(1))

    def loss(self, network: Network, batch: Pairs, t: Any, eps: Any, weight: Any) -> Any:
        return super().loss(network, batch, t, eps, weight) + (self.scale * self.second(batch.x0)).square().mean()


def lesson_of(name: str, **options: float) -> Lesson:
    return replace(LESSON, stages=(Stage("all", Scheme("gradient", {}), 1.0, Scheme(name, options)),))


def test_a_network_asked_twice_is_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES.table, "asking", Asking)
    once, twice = (training_cost(work_of(), lesson_of("asking", times=times)) for times in (1.0, 2.0))
    assert once == train()
    assert twice.flops == pytest.approx(2 * once.flops)
    assert twice.bytes > 1.5 * once.bytes


def test_an_objectives_own_network_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its forward pass and its weights' gradient: the target itself has none."""
    monkeypatch.setitem(OBJECTIVES.table, "owning", Owning)
    words: dict[str, Any] = {"precision": "fp32", "device": "cpu"}
    plain, owned = train(**words), training_cost(work_of(**words), lesson_of("owning", channels=8.0))
    assert owned.flops - plain.flops == 2 * (2 * 27 * 8 * 48**3)
    assert owned.bytes >= plain.bytes
    wide = training_cost(work_of(patch=(4, 4, 4), **words), lesson_of("owning", channels=10_000.0))
    narrow = training_cost(work_of(patch=(4, 4, 4), **words), lesson_of("owning", channels=1.0))
    assert wide.bytes - narrow.bytes >= 5 * 4 * 28 * 9_999, "weights, gradients, AdamW's moments"


def test_an_objectives_frozen_network_is_not_trained_in_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES.table, "owning", Owning)
    words: dict[str, Any] = {"precision": "fp32", "device": "cpu"}
    frozen = training_cost(work_of(**words), lesson_of("owning", channels=8.0, frozen=1.0))
    assert frozen.flops - train(**words).flops == 2 * 27 * 8 * 48**3, "forward alone"


# ---------------------------------------------------------------- a real step


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("block", [0, 4])
def test_a_real_step_takes_what_was_predicted(block: int) -> None:
    from benchmarks.memory import KEEP_NOTHING, Case, within

    case = Case("train", HALF, (64, 64, 64), 2, "fp32", "none", width=32, levels=2, device="cpu")
    if block:
        case = Case("train", FULL, (48, 48, 48), 2, "fp32", "none", width=64, block=block, device="cpu")
    code = f"from benchmarks.memory import *; print(json.dumps(measure({case!r}.work)))"
    root = Path(memory.__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | KEEP_NOTHING,
    ).stdout
    measured = json.loads(output.splitlines()[-1])["measured"]
    predicted = training_cost(case.work.load, case.work.lesson).bytes
    assert within(predicted, measured), (predicted, measured)
