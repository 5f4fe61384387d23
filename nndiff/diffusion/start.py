"""Where the reverse path starts: (x_t, t) from which a sampler walks down.

    x_t = a·x + b·y + sigma·eps      with, in the target's place,

    noise     x = 0                  at t = 1: what processes without a source begin with
    source    x = y                  at t = 1 a bridge is y itself
    shortcut  x = y                  at a late t: all steps before it are saved (Less Is More)
    draft     x = x̂0 of one step     at a late t: a better start than y, for one evaluation

The published rule for the shortcut's t in words, the open part as a number: the starting step is the one whose
noise-to-signal ratio is a small multiple of the distance between source and target,
sigma/a (ts) = NOISE_MULTIPLE · rmse(y, x0).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nndiff.diffusion.process import DDPM, Process
from nndiff.diffusion.sampler import Denoise
from nndiff.words.registry import Registry

NOISE_MULTIPLE = 1.0  # measured for a model that predicts the image; published for one that predicts noise: 5 to 15
STEPS = 1000


def noise_matched_step(rmse: float, multiple: float = NOISE_MULTIPLE, process: Process | None = None) -> int:
    """Of 1000 steps, the linear schedule's where not said, the one as noisy as `multiple` times that distance."""
    return (process or DDPM(STEPS)).matched_step(multiple * rmse, STEPS)


class Start(Protocol):
    """x at time t, of the shape of `like` [B, C, Z, Y, X]; its noise was drawn once for the whole volume."""

    def __call__(
        self, process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor
    ) -> Tensor: ...


def from_noise(process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor) -> Tensor:
    return _drawn(process, torch.zeros_like(like), y, t, noise)


def from_source(process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor) -> Tensor:
    """At t = 1 x0 has no weight on a bridge; before it, the source stands in for it."""
    return _drawn(process, _needed(y), y, t, noise)


def from_draft(process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor) -> Tensor:
    """One evaluation first: from a bridge's own beginning, else from where the walk is to start."""
    first = 1.0 if process.at(1.0)[1] else t
    estimate = denoise(_drawn(process, _needed(y), y, first, noise), first).x0
    return _drawn(process, estimate, y, t, noise)


def _drawn(process: Process, x0: Tensor, y: Tensor | None, t: float, noise: Tensor) -> Tensor:
    times = torch.full((x0.shape[0],), t, dtype=torch.float64, device=x0.device)
    return process.sample(x0, y, times, noise)


def _needed(y: Tensor | None) -> Tensor:
    assert y is not None, "this start needs a source"
    return y


STARTS: Registry[Start] = Registry(
    "start", {"noise": from_noise, "source": from_source, "shortcut": from_source, "draft": from_draft}
)
