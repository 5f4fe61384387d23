"""Tests of building a network from a plan: channels with and without the puzzle, head, multiple, and unknown names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from scipy.ndimage import uniform_filter

from nndiff.assemble import asked, build_formulation, build_network, build_objective, formulation_of, setting_of
from nndiff.diffusion.losses import Gradient, Squared
from nndiff.diffusion.objectives import OBJECTIVES, Denoising
from nndiff.families import FAMILIES, NetworkSpec
from nndiff.networks.puzzle import haar, puzzle
from nndiff.plans.plan import Stage
from nndiff.words.errors import NndiffError
from nndiff.words.scheme import Scheme
from nndiff.words.spread import Spread
from nndiff.words.strict_json import decode, encode
from nndiff.words.volume import Triple
from tests.training.tiny import tiny_plan
from tests.walks import prdit, unet

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
SPEC = unet(in_channels=3, out_channels=2, multipliers=(1, 2, 2), kernels=((3, 3, 3),) * 3, strides=STRIDES, blocks=2)


@pytest.mark.parametrize("factor", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("head_width", [0, 6])
def test_channels_are_the_images_whatever_the_puzzle(factor: Triple, head_width: int) -> None:
    network: Any = build_network(replace(SPEC, head_width=head_width), factor)
    x_t, condition = torch.randn(1, 2, 5, 9, 10), torch.randn(1, 1, 5, 9, 10)
    assert network(x_t, torch.rand(1), condition).shape == x_t.shape
    pieces = factor[0] * factor[1] * factor[2]
    assert network.core.stem.in_channels == 3 * pieces
    assert network.core.head.conv.out_channels == (4 if head_width else 2) * pieces


def test_generation_has_no_condition() -> None:
    network = build_network(replace(SPEC, in_channels=2), (2, 2, 2))
    assert network(torch.randn(1, 2, 6, 6, 6), torch.rand(1)).shape == (1, 2, 6, 6, 6)


def test_a_unet_is_padded_to_the_puzzle_alone_and_a_transformer_to_its_blocks() -> None:
    assert SPEC.multiple((1, 2, 3)) == (1, 2, 3)
    assert prdit(block=(4, 2, 1)).multiple((1, 2, 3)) == (4, 4, 3)


def test_weights_are_channels_last() -> None:
    network: Any = build_network(SPEC, (2, 2, 2))
    assert network.core.stem.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_it_builds_without_memory() -> None:
    with torch.device("meta"):
        network = build_network(replace(SPEC, width=1024), (4, 4, 4))
    assert all(weight.is_meta for weight in network.parameters())


@pytest.mark.parametrize("spec", [SPEC, prdit()])
def test_weights_that_are_left_unset_are_not_drawn_and_take_those_of_another(spec: NetworkSpec) -> None:
    drawn = build_network(spec, (2, 2, 2)).eval()
    before = torch.get_rng_state()
    unset = build_network(spec, (2, 2, 2), unset=True).eval()
    assert torch.equal(torch.get_rng_state(), before)
    unset.load_state_dict(drawn.state_dict())
    x_t, t = torch.randn(1, 1, 8, 8, 8), torch.rand(1)
    condition = torch.randn(1, spec.in_channels - 1, 8, 8, 8) if spec.in_channels > 1 else None
    torch.testing.assert_close(unset(x_t, t, condition), drawn(x_t, t, condition), rtol=0, atol=0)


@pytest.mark.parametrize("factor", [(2, 2, 2), (1, 2, 2)])
def test_a_planned_mix_is_in_the_network(factor: Triple) -> None:
    torch.manual_seed(0)
    network: Any = build_network(replace(SPEC, mix="haar"), factor)
    assert network.haar
    seen = []
    network.core.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x_t = torch.randn(1, 3, 8, 8, 8)
    network(x_t, torch.rand(1))
    torch.testing.assert_close(seen[0], haar(puzzle(x_t, factor), factor))


@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize("head_width", [0, 6])
@pytest.mark.parametrize("sources", [(), (Spread(-3.0, 2.0),)])
def test_a_planned_skip_makes_a_new_network_answer_with_the_local_mean(
    factor: Triple, head_width: int, sources: tuple[Spread, ...]
) -> None:
    """Beyond the volume a source is 0, or its mean where the network sees the distance from it."""
    network = build_network(replace(SPEC, head_width=head_width, skip=(2, 0), sources=sources), factor)
    x_t, condition = torch.randn(1, 2, 8, 8, 8), torch.randn(1, 1, 8, 8, 8)
    beyond = sources[0].mean if sources else 0.0
    wanted = ((condition[0, 0], beyond), (x_t[0, 0], 0.0))
    for out, (seen, outside) in zip(network(x_t, torch.rand(1), condition)[0], wanted, strict=True):
        mean = uniform_filter(seen.numpy(), 3, mode="constant", cval=outside)
        torch.testing.assert_close(out, torch.from_numpy(mean))


@pytest.mark.parametrize(
    ("factor", "kernel"),
    [((1, 1, 1), (1, 3, 3)), ((1, 2, 2), (1, 3, 3)), ((2, 2, 2), (3, 3, 3)), ((2, 1, 1), (3, 3, 3))],
)
def test_the_local_mean_is_of_the_volumes_own_voxels(factor: Triple, kernel: Triple) -> None:
    """Level 0 of the network may be flat because the puzzle made an axis coarse: the skip does not see the puzzle."""
    spec = replace(SPEC, skip=(2, 0), kernels=((1, 3, 3), *SPEC.kernels[1:]))
    network: Any = build_network(spec, factor)
    assert network.skip.kernel_size == spec.local_mean_kernel(factor) == kernel


@pytest.mark.parametrize("skip", [(0,), (0, 3), (0, -1), (0, 1, 2)])
def test_a_skip_from_nowhere_is_refused(skip: tuple[int, ...]) -> None:
    with pytest.raises(NndiffError, match="name one input channel per output channel"):
        build_network(replace(SPEC, skip=skip), (2, 2, 2))


@pytest.mark.parametrize("factor", [(4, 4, 4), (1, 1, 1), (2, 2, 4)])
def test_the_mix_of_another_puzzle_is_refused(factor: Triple) -> None:
    with pytest.raises(NndiffError, match="Haar mix needs a puzzle factor of 2"):
        build_network(replace(SPEC, mix="haar"), factor)


def test_an_unknown_network_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(NndiffError, match="did you mean 'unet'"):
        decode(NetworkSpec, {**encode(SPEC), "name": "unett"})


def test_another_packages_network_is_built_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Same(NetworkSpec):
        name = "same"

        def build(self, puzzle_factor: Triple) -> torch.nn.Module:
            return torch.nn.Identity()

    monkeypatch.setitem(FAMILIES.table, "same", Same)
    stored = {"name": "same", "in_channels": 1, "out_channels": 1, "width": 4, "recompute": "none"}
    spec = decode(NetworkSpec, stored)
    assert isinstance(build_network(spec, (2, 1, 2)), torch.nn.Identity)
    assert spec.multiple((2, 1, 2)) == (2, 1, 2)
    assert spec.local_mean_kernel((2, 1, 2)) == (3, 1, 3)
    assert spec.reuse_depths == 0


# ---------------------------------------------------------------- formulations and objectives


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_prediction_that_is_undefined_where_the_process_starts_is_refused(prediction: str) -> None:
    with pytest.raises(NndiffError, match=f"'{prediction}' is undefined at t = 1, where the process 'bridge' starts"):
        build_formulation(Scheme("bridge", {"gamma": 0.1 if prediction == "eps" else 0.0}), prediction, 0.1, 0.03)


def test_a_fused_prediction_without_an_open_part_is_refused() -> None:
    build_formulation(Scheme("bridge", {"gamma": 0.1}), "fused", 0.1, 0.03)
    with pytest.raises(NndiffError, match=r"'fused' needs to know how much of the target(.|\n)*found 0.0"):
        build_formulation(Scheme("bridge", {"gamma": 0.1}), "fused", 0.1, 0.0)


def test_a_formulation_reads_from_an_answer_what_its_prediction_says() -> None:
    formulation = formulation_of(tiny_plan(("ddpm",)).configurations["ddpm"])
    process, prediction = formulation.process, formulation.prediction
    x0, y, eps = (torch.randn(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    t = torch.tensor([0.05], dtype=torch.float64)
    x_t = process.sample(x0, y, t, eps)
    found = formulation.estimate(prediction.target(process, x0, y, eps, t), x_t, y, t)
    torch.testing.assert_close(found.x0, x0, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.eps, eps, rtol=1e-2, atol=1e-2)


def test_what_parts_of_a_sampler_may_know_is_the_configurations_own() -> None:
    plan = tiny_plan(("bridge", "ddpm"))
    bridge, ddpm = (setting_of(plan.configurations[name]) for name in ("bridge", "ddpm"))
    assert (bridge.process.from_source, ddpm.process.from_source) == (True, False)
    assert bridge.network is plan.configurations["bridge"].network
    assert bridge.puzzle_factor == plan.configurations["bridge"].puzzle_factor


def test_a_stage_becomes_an_objective_with_its_loss() -> None:
    formulation = formulation_of(tiny_plan().configurations["bridge"])
    for loss, kind in ((Scheme("gradient", {"weight": 0.7}), Gradient), (Scheme("squared", {}), Squared)):
        objective = build_objective(Stage("all", loss, 1.0), formulation)
        assert isinstance(objective, Denoising)
        assert isinstance(objective.measure, kind)
        assert objective.process is formulation.process
        assert objective.prediction is formulation.prediction
    assert build_objective(Stage("all", Scheme("gradient", {"weight": 0.7}), 1.0), formulation).measure.weight == 0.7


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (Stage("all", Scheme("gradent", {}), 1.0), "no loss named 'gradent'(.|\n)*did you mean 'gradient'"),
        (Stage("all", Scheme("gradient", {"wight": 1.0}), 1.0), "weight"),
        (Stage("all", Scheme("squared", {}), 1.0, Scheme("denoisin", {})), "did you mean 'denoising'"),
        (Stage("all", Scheme("squared", {}), 1.0, Scheme("denoising", {"extra": 1.0})), "denoising"),
    ],
)
def test_a_stage_that_names_what_does_not_exist_is_refused(stage: Stage, words: str) -> None:
    with pytest.raises(NndiffError, match=words):
        build_objective(stage, formulation_of(tiny_plan().configurations["bridge"]))


def test_another_packages_objective_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Denoising):
        def __init__(self, process: Any, prediction: Any, measure: Any, weight: float = 1.0):
            super().__init__(process, prediction, measure)
            self.weight = weight

    monkeypatch.setitem(OBJECTIVES.table, "twice", Twice)
    stage = Stage("all", Scheme("squared", {}), 1.0, Scheme("twice", {"weight": 0.5}))
    assert build_objective(stage, formulation_of(tiny_plan().configurations["bridge"])).weight == 0.5


@pytest.mark.parametrize("share", [-3, 0, float("nan")])
def test_a_stage_of_no_share_is_refused(share: float) -> None:
    with pytest.raises(NndiffError, match=r"'share' is out of range.\n.*above 0"):
        Stage("all", Scheme("squared", {}), share)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_network_is_asked_in_the_plans_precision_and_answers_in_fp32(precision: str) -> None:
    layer, seen = torch.nn.Conv3d(1, 1, 1), []
    layer.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    answer = asked(lambda x_t, t, condition: layer(x_t), "cpu", precision)(
        torch.ones(1, 1, 2, 2, 2), torch.ones(1), None
    )
    assert answer.dtype == torch.float32
    assert seen == [torch.bfloat16 if precision == "bf16" else torch.float32]
