"""The mean of recent weights, which is what predicts:  e ← d·e + (1 - d)·w,  d = 2^(-1/half-life).

Early on the memory is as short as the training, d ≤ (1 + n)/(10 + n), so that the start is forgotten at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    def __init__(self, network: nn.Module, half_life: int):
        self.decay = 0.5 ** (1 / half_life)
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """After step number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        weights = network.state_dict()
        torch._foreach_lerp_(list(self.values.values()), [weights[name] for name in self.values], 1 - decay)

    @contextmanager
    def inside(self, network: nn.Module) -> Iterator[None]:
        """The network with these weights for a while; its own come back exactly."""
        own = {name: value.detach().clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.values)
        try:
            yield
        finally:
            network.load_state_dict(own)

    def restore(self, values: dict[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])
