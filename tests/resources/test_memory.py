"""Predicted memory: grows and shrinks as it must, equals what one can count by hand, and meets a small real step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from nndiff.assemble import build_network
from nndiff.families import NetworkSpec
from nndiff.resources import memory
from nndiff.resources.memory import Cost, prediction_cost, total_needed, training_cost, usable_bytes
from nndiff.words.volume import Triple

FULL, HALF = (1, 1, 1), (2, 2, 2)
SPEC = NetworkSpec("unet", 2, 1, 16, (1, 2), ((3, 3, 3),) * 2, (FULL, HALF), 1, 0, "none")


def train(
    spec: NetworkSpec = SPEC,
    factor: Triple = HALF,
    patch: Triple = (48, 48, 48),
    batch: int = 1,
    precision: str = "bf16",
    device: str = "cuda",
) -> Cost:
    return training_cost(spec, factor, patch, batch, precision, device)


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
    assert blocks.bytes < norms.bytes < 0.75 * none.bytes
    assert norms.flops == none.flops < blocks.flops


def test_bf16_lowers_it() -> None:
    assert 0.4 < train(patch=(96, 96, 96)).bytes / train(patch=(96, 96, 96), precision="fp32").bytes < 0.65


def test_the_puzzle_lowers_it_as_the_method_claims() -> None:
    spec = replace(SPEC, width=32)
    full, half = (train(spec, factor, (96, 96, 96), 2, "fp32", "cpu") for factor in (FULL, HALF))
    assert 6 <= full.bytes / half.bytes <= 8
    assert 6 <= full.flops / half.flops <= 8


def test_prediction_is_cheaper_than_training() -> None:
    predicted, trained = prediction_cost(SPEC, HALF, (48, 48, 48), "bf16"), train()
    assert predicted.bytes < trained.bytes / 2
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
    assert prediction_cost(SPEC, HALF, patch, precision, device).flops


def test_flops_of_the_stem_are_those_of_the_textbook() -> None:
    wide = prediction_cost(replace(SPEC, in_channels=3), FULL, (16, 16, 16), "fp32").flops
    narrow = prediction_cost(SPEC, FULL, (16, 16, 16), "fp32").flops
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

    def twice(network: nn.Module, pair: memory.Pair, loss: memory.Loss, precision: str) -> None:
        tracer = next(mode for mode in _get_current_dispatch_mode_stack() if isinstance(mode, memory._Tracer))
        weights = list(network.parameters())
        tracer.live -= memory.COPIES_BESIDE_WEIGHTS * sum(weight.nbytes for weight in weights)
        optimiser = torch.optim.AdamW(weights, fused=True)
        average = [weight.detach().clone() for weight in weights]
        for _ in range(2):
            optimiser.zero_grad()
            step(network, pair, loss, precision)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, weights, 0.01)

    step = memory.backward
    monkeypatch.setattr(memory, "backward", twice)
    training_cost.cache_clear()
    assert train().bytes == pytest.approx(once.bytes, rel=0.005)
    training_cost.cache_clear()


def test_usable_and_needed_are_inverse() -> None:
    for device in ("cuda", "cpu", "mps"):
        for total in (4 * 10**9, 24 * 2**30, 80 * 2**30):
            usable = usable_bytes(total, device)
            assert 0 < usable < total
            assert usable_bytes(total_needed(usable, device), device) >= usable
            assert abs(total_needed(usable, device) - total) < 10
    assert usable_bytes(10**8, "cuda") == usable_bytes(10**8, "cpu") == 0


def test_of_stages_the_dearest_counts_and_what_is_frozen_keeps_nothing_for_its_gradients() -> None:
    tokens = NetworkSpec("prdit", 2, 2, 48, (1,), ((6, 6, 6),), ((4, 4, 4),), 4, 0, "none", answers=2)
    local, whole, both = (
        training_cost(tokens, FULL, (32, 32, 32), 2, "fp32", "cpu", parts)
        for parts in (("core.local",), ("core.whole",), ("core.local", "core.whole"))
    )
    joint = training_cost(tokens, FULL, (32, 32, 32), 2, "fp32", "cpu")
    assert both.bytes == max(local.bytes, whole.bytes) < joint.bytes
    assert both.flops == max(local.flops, whole.flops) < joint.flops
    alone = training_cost(replace(tokens, blocks=0), FULL, (32, 32, 32), 2, "fp32", "cpu")
    assert local.flops == alone.flops, "while it is frozen the transformer is not run"


def test_a_transformers_work_counts_its_attention() -> None:
    tokens = NetworkSpec("prdit", 2, 2, 64, (1,), ((6, 6, 6),), ((4, 4, 4),), 3, 0, "none", answers=2)
    few, many = (prediction_cost(tokens, FULL, (size, 32, 32), "fp32", "cpu").flops for size in (32, 64))
    attention = 3 * 4 * 64 * 512**2  # blocks · (scores and mixing, 2 each) · width · tokens²
    assert many - 2 * few == pytest.approx(2 * attention, rel=0.01)


def test_a_transformers_memory_grows_no_faster_than_its_tokens() -> None:
    tokens = NetworkSpec("prdit", 2, 2, 64, (1,), ((6, 6, 6),), ((4, 4, 4),), 3, 0, "none", answers=2)
    few, more, most = (training_cost(tokens, FULL, (size, 64, 64), 1, "fp32", "cpu").bytes for size in (32, 64, 128))
    assert (most - more) == pytest.approx(2 * (more - few), rel=0.02)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("block", [0, 4])
def test_a_real_step_takes_what_was_predicted(block: int) -> None:
    from benchmarks.memory import KEEP_NOTHING, Case, within

    case = Case("train", HALF, (64, 64, 64), 2, "fp32", "none", width=32, levels=2)
    if block:
        case = Case("train", FULL, (48, 48, 48), 2, "fp32", "none", width=64, block=block)
    code = f"from benchmarks.memory import *; print(json.dumps(measure({case!r}.work, 'cpu')))"
    root = Path(memory.__file__).parents[1]
    output = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | KEEP_NOTHING,
    ).stdout
    measured = json.loads(output.splitlines()[-1])["measured"]
    predicted = training_cost(case.spec, case.puzzle, case.patch, case.batch, case.precision, "cpu").bytes
    assert within(predicted, measured), (predicted, measured)
