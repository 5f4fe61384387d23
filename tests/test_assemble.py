"""Plan → network: channels before and after the puzzle, the head, the multiple, and a name that nobody knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.ndimage import uniform_filter

from nndiff.assemble import build_network, multiple, nearby
from nndiff.families import NetworkSpec
from nndiff.networks.puzzle import haar, puzzle
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Triple

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
SPEC = NetworkSpec("unet", 3, 2, 8, (1, 2, 2), ((3, 3, 3),) * 3, STRIDES, 2, 0, "none")


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


def test_multiple_is_the_puzzle_times_all_strides() -> None:
    assert multiple(SPEC, (1, 2, 3)) == (2, 8, 12)


def test_weights_are_channels_last() -> None:
    network: Any = build_network(SPEC, (2, 2, 2))
    assert network.core.stem.weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_it_builds_without_memory() -> None:
    with torch.device("meta"):
        network = build_network(replace(SPEC, width=1024), (4, 4, 4))
    assert all(weight.is_meta for weight in network.parameters())


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
def test_a_planned_skip_makes_a_new_network_answer_with_the_local_mean(factor: Triple, head_width: int) -> None:
    network = build_network(replace(SPEC, head_width=head_width, skip=(2, 0)), factor)
    x_t, condition = torch.randn(1, 2, 8, 8, 8), torch.randn(1, 1, 8, 8, 8)
    for out, seen in zip(network(x_t, torch.rand(1), condition)[0], (condition[0, 0], x_t[0, 0]), strict=True):
        torch.testing.assert_close(out, torch.from_numpy(uniform_filter(seen.numpy(), 3, mode="constant")))


@pytest.mark.parametrize(
    ("factor", "kernel"),
    [((1, 1, 1), (1, 3, 3)), ((1, 2, 2), (1, 3, 3)), ((2, 2, 2), (3, 3, 3)), ((2, 1, 1), (3, 3, 3))],
)
def test_the_local_mean_is_of_the_volumes_own_voxels(factor: Triple, kernel: Triple) -> None:
    """Level 0 of the network may be flat because the puzzle made an axis coarse: the skip does not see the puzzle."""
    spec = replace(SPEC, skip=(2, 0), kernels=((1, 3, 3), *SPEC.kernels[1:]))
    network: Any = build_network(spec, factor)
    assert network.skip.kernel_size == nearby(spec, factor) == kernel


@pytest.mark.parametrize("skip", [(0,), (0, 3), (0, -1), (0, 1, 2)])
def test_a_skip_from_nowhere_is_refused(skip: tuple[int, ...]) -> None:
    with pytest.raises(NndiffError, match="names an input channel for every output channel"):
        build_network(replace(SPEC, skip=skip), (2, 2, 2))


@pytest.mark.parametrize("factor", [(4, 4, 4), (1, 1, 1), (2, 2, 4)])
def test_the_mix_of_another_puzzle_is_refused(factor: Triple) -> None:
    with pytest.raises(NndiffError, match="Haar mix is of a puzzle of 2"):
        build_network(replace(SPEC, mix="haar"), factor)


def test_an_unknown_network_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(NndiffError, match="did you mean 'unet'"):
        build_network(replace(SPEC, name="unett"), (1, 1, 1))
