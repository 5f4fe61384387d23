"""Plan → objects: the only room that turns names into classes.

Method = process + prediction: how a volume is taken apart, and what a network's answer says of it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from nndiff.diffusion.losses import LOSSES
from nndiff.diffusion.prediction import PREDICTIONS, Estimate, Prediction
from nndiff.diffusion.process import PROCESSES, Process
from nndiff.imaging.augment import AUGMENTATIONS, Augmentation
from nndiff.networks.prdit import PRDiT
from nndiff.networks.puzzle import HEAD_CHANNELS, Head, Puzzled, averaging
from nndiff.networks.unet import UNet
from nndiff.plans.plan import Configuration, NetworkSpec
from nndiff.words.errors import NndiffError
from nndiff.words.registry import Registry
from nndiff.words.scheme import Scheme
from nndiff.words.volume import Triple

Core = Callable[[NetworkSpec, int, int], nn.Module]  # (spec, channels in, channels out), counted after the puzzle


def build_network(spec: NetworkSpec, puzzle_factor: Triple) -> nn.Module:
    """The network (x_t, t, condition) → output of a plan, in image space; weights channels last."""
    pieces = prod(puzzle_factor)
    out = HEAD_CHANNELS if spec.head_width else spec.out_channels
    core = NETWORKS[spec.name](spec, spec.in_channels * pieces, out * pieces)
    head = Head(HEAD_CHANNELS + spec.in_channels, spec.out_channels, spec.head_width) if spec.head_width else None
    mixed = _is_mixed(spec, puzzle_factor)
    network = Puzzled(core, puzzle_factor, multiple(spec, puzzle_factor), head, mixed, _skip(spec, puzzle_factor))
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


def nearby(spec: NetworkSpec, puzzle_factor: Triple) -> Triple:
    """A local mean's kernel at full resolution: level 0's, and 3 along every axis fine enough to puzzle."""
    z, y, x = (3 if r > 1 else k for k, r in zip(spec.kernels[0], puzzle_factor, strict=True))
    return z, y, x


def _skip(spec: NetworkSpec, puzzle_factor: Triple) -> nn.Module | None:
    if not spec.skip:
        return None
    if len(spec.skip) != spec.out_channels or not all(0 <= channel < spec.in_channels for channel in spec.skip):
        raise NndiffError(
            "'network.skip' names an input channel for every output channel, or none.",
            expected=f"{spec.out_channels} of 0 to {spec.in_channels - 1} (x_t first, then the sources)",
            found=list(spec.skip),
            remedy="--set configurations.NAME.network.skip=[]",
        )
    return averaging(spec.in_channels, spec.skip, nearby(spec, puzzle_factor))


def _is_mixed(spec: NetworkSpec, puzzle_factor: Triple) -> bool:
    if spec.mix == "haar" and max(puzzle_factor) != 2:
        raise NndiffError(
            "The Haar mix is of a puzzle of 2.",
            expected="puzzle_factor 1 or 2 along each axis, 2 along one at least",
            found=list(puzzle_factor),
            remedy="--set configurations.NAME.network.mix=none",
        )
    return spec.mix == "haar"


def set_trained(network: nn.Module, part: str) -> None:
    """Freeze all weights but those of one part ("all": none is frozen)."""
    named = dict(network.named_parameters())
    chosen = {name for name in named if part == "all" or name.startswith(f"{part}.")}
    if not chosen:
        depth = part.count(".") + 1
        parts = sorted({".".join(name.split(".")[:depth]) for name in named})
        raise NndiffError(
            "A stage trains a part that the network does not have.", expected=f"all, {', '.join(parts)}", found=part
        )
    for name, weight in named.items():
        weight.requires_grad_(name in chosen)


def multiple(spec: NetworkSpec, puzzle_factor: Triple) -> Triple:
    """What every axis of a patch is padded to a multiple of: the puzzle's factor times all strides."""
    z, y, x = (r * prod(axis) for r, axis in zip(puzzle_factor, zip(*spec.strides, strict=True), strict=True))
    return z, y, x


def padded(shape: Sequence[int], steps: Sequence[int]) -> list[int]:
    """The shape at which the network works on a volume: each axis up to the next multiple."""
    return [-(-n // m) * m for n, m in zip(shape, steps, strict=True)]


@dataclass(frozen=True)
class Method:
    process: Process
    prediction: Prediction

    def target(self, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        return self.prediction.target(self.process, x0, y, eps, t)

    def estimate(self, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Estimate:
        return self.prediction.estimate(self.process, output, x_t, y, t)


def build_process(scheme: Scheme) -> Process:
    process: Process = PROCESSES.make(scheme.name, scheme.options)
    return process


def build_method(configuration: Configuration) -> Method:
    scheme, name = configuration.process, configuration.prediction
    process = build_process(scheme)
    prediction = PREDICTIONS.make(name, {"distance": configuration.source_distance})
    a, _, sigma = process.at(1.0)
    if not prediction.defined(a, sigma):
        raise NndiffError(
            f"'{name}' is undefined where the process '{scheme.name}' starts.",
            expected="a prediction that says x0 there: x0, x0_skip or residual",
            found=f"x_t = {a:.3g}·x0 + {sigma:.3g}·eps + …",
            remedy="--set configurations.NAME.prediction=x0",
        )
    return Method(process, prediction)


def build_loss(scheme: Scheme) -> nn.Module:
    loss: nn.Module = LOSSES.make(scheme.name, scheme.options)
    return loss


def build_augmentations(schemes: Sequence[Scheme]) -> tuple[Augmentation, ...]:
    return tuple(AUGMENTATIONS.make(scheme.name, scheme.options) for scheme in schemes)


def _unet(spec: NetworkSpec, c_in: int, c_out: int) -> nn.Module:
    return UNet(c_in, c_out, spec.width, spec.multipliers, spec.kernels, spec.strides, spec.blocks, spec.recompute)


def _prdit(spec: NetworkSpec, c_in: int, c_out: int) -> nn.Module:
    if len(spec.kernels) != 1 or len(spec.strides) != 1:
        raise NndiffError(
            "A prdit has one level: a token's patch and its block.",
            expected="one kernel and one stride",
            found=f"{len(spec.kernels)} kernels, {len(spec.strides)} strides",
        )
    return PRDiT(c_in, c_out, spec.width, spec.blocks, spec.kernels[0], spec.strides[0], spec.recompute)


NETWORKS: Registry[Core] = Registry("network", {"unet": _unet, "prdit": _prdit})
