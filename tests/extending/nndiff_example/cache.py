"""A cache that keeps the output of the network and evaluates the network only on every N-th step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from nndiff.families.family import NetworkSpec
from nndiff.walk.caches import Cache
from nndiff.walk.layers import Asks, Where
from nndiff.words.fields import at_least, option
from nndiff.words.volume import Triple


@dataclass(frozen=True)
class Answers(Cache):
    name = "answers"

    every: int = option(2, at_least(1), help="ask the network every N-th step only")

    @property
    def is_identity(self) -> bool:
        return self.every == 1

    def work(self, steps: int, share: Callable[[int], float]) -> float:
        return -(-steps // self.every)

    def bytes(self, network: NetworkSpec, tile: Triple, feature: Callable[[int], int]) -> int:
        return 0 if self.is_identity else 4 * prod(tile) * network.out_channels

    def begin(self, store: torch.device, measures: bool = False) -> KeptAnswers:
        return KeptAnswers(self.every, store)


class KeptAnswers:
    def __init__(self, every: int, store: torch.device):
        self.every, self.store, self.step = every, store, 0
        self.answers: dict[Where, Tensor] = {}

    def begin(self, x: Tensor) -> None:
        if self.step % self.every == 0:
            self.answers.clear()

    def end(self, x: Tensor) -> None:
        self.step += 1

    def around(self, network: Asks) -> Asks:
        def ask(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where, *kept: object) -> Tensor:
            if where not in self.answers:
                self.answers[where] = network(x_t, t, condition, where, *kept).to(self.store)
            return self.answers[where].to(x_t.device)

        return ask
