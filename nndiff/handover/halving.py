"""Weights as float16, and the difference that it makes: the change of the network's output, measured.

d = network(x; rounded weights) - network(x; weights)          x: normal random numbers, t = 1

largest = max |d| / rms(output)          rms = rms(d) / rms(output)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nndiff.assemble import build_network, formulation_of
from nndiff.folds import Fold
from nndiff.networks.lean import channels
from nndiff.plans.plan import Configuration
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Triple

SEED = 0
SIDE = 32  # voxels per axis of the random input, unless the network can only be run at the patch of its training


@dataclass(frozen=True)
class Change:
    """How much an output changes, relative to its own rms."""

    largest: float
    rms: float

    def __str__(self) -> str:
        return f"{self.largest:.2g} at most, {self.rms:.2g} rms, relative to the output's rms"


def rounded(fold: Fold) -> dict[str, Tensor]:
    """Return the weights as float16 can hold them; refuse weights that are too large for it."""
    found = {name: value.half().float() for name, value in fold.weights.items()}
    if over := next((name for name, value in found.items() if not torch.isfinite(value).all()), None):
        raise NndiffError(
            "A weight is too large for float16.",
            expected=f"{torch.finfo(torch.float16).max:g} or less",
            found=f"{float(fold.weights[over].abs().max()):g} in {over}",
            where=fold.path,
            remedy="export without --half",
        )
    return found


@torch.no_grad()
def change(fold: Fold, other: Mapping[str, Tensor]) -> Change:
    """Return how other weights change the output of the fold's network on a random input at t = 1."""
    exact, changed = (_output(fold, weights) for weights in (fold.weights, other))
    difference, scale = (changed - exact).double(), float(exact.double().square().mean().sqrt())
    largest, rms = float(difference.abs().max()), float(difference.square().mean().sqrt())
    return Change(0.0, 0.0) if largest == 0 else Change(largest / scale, rms / scale)


def _output(fold: Fold, weights: Mapping[str, Tensor]) -> Tensor:
    """Return the network's output for the same random x_t and sources at each call: [1, C, Z, Y, X]."""
    planned, shape = fold.planned, _shape(fold.planned)
    network = build_network(planned.network, planned.puzzle_factor, unset=True)
    network.load_state_dict(weights)
    generator = torch.Generator().manual_seed(SEED)
    sources, targets = len(fold.plan.source_channels), len(fold.plan.target_channels)
    x_t = torch.randn(1, targets, *shape, generator=generator)
    condition = torch.randn(1, sources, *shape, generator=generator) if sources else None
    y = None if condition is None else channels(condition, fold.plan.anchor)
    shown, told = formulation_of(planned).view(x_t, y, torch.ones(1, dtype=torch.float64))
    output: Tensor = network.eval()(shown, told, condition)
    return output


def _shape(planned: Configuration) -> Triple:
    if planned.network.keeps_patch:
        return planned.patch_size
    z, y, x = (min(n, SIDE) for n in planned.patch_size)
    return z, y, x
