"""The exponential moving average of the weights, used for prediction:  e ← d·e + (1 - d)·w,  d = 2^(-1/half-life).

At step n the decay is limited, d ≤ (1 + n)/(10 + n), so that the initial weights are forgotten quickly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """The moving average of the weights of one network."""

    def __init__(self, network: nn.Module, half_life: int):
        self.decay = 0.5 ** (1 / half_life)
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average after step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = network.state_dict()
        torch._foreach_lerp_(list(self.values.values()), [weights[name] for name in self.values], 1 - decay)

    @contextmanager
    def inside(self, network: nn.Module) -> Iterator[None]:
        """Give the network the averaged weights in this context; afterwards its own are restored exactly."""
        own = {name: value.detach().clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.values)
        try:
            yield
        finally:
            network.load_state_dict(own)

    def restore(self, values: dict[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])
