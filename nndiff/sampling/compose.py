"""What the sampler asks in a network's place: the networks of all folds, in the layers of a sampler, tile by tile.

    (x_t, t, condition, where) → output          tiles( mean over folds( shifts …( cache …( network ))))

`where` collects the tile, the fold and the place of every layer, so that what is kept from step to step has an address.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nndiff.assemble import autocast
from nndiff.imaging.tiles import Tiling
from nndiff.walk.caches import Keeping
from nndiff.walk.layers import Asks, Layer, Where, ordered
from nndiff.words.volume import Triple


def plain(network: nn.Module) -> Asks:
    """Return the network as layers and caches ask it; it has no use for the place."""

    def ask(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where, *kept: object) -> Tensor:
        output: Tensor = network(x_t, t, condition, *kept)
        return output

    return ask


def layered(network: nn.Module, layers: Sequence[Layer], keeping: Sequence[Keeping], puzzle_factor: Triple) -> Asks:
    """Return one fold's network with what is kept innermost, then the layers, the first of the table outermost."""
    asks: Asks = plain(network)
    for kept in keeping:
        asks = kept.around(asks)
    for layer in reversed(ordered([layer for layer in layers if not layer.sees_volume])):
        asks = layer.around(asks, puzzle_factor)
    return asks


def averaged(networks: Sequence[Asks], precision: str) -> Asks:
    """Return the mean answer of several folds' networks, under autocast, in fp32."""

    def ask(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where) -> Tensor:
        with autocast(x_t.device.type, precision):
            answers = [network(x_t, t, condition, (*where, i)) for i, network in enumerate(networks)]
        return answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)

    return ask


def tiled(network: Asks, tiling: Tiling, device: torch.device) -> Asks:
    """Return the network of a whole volume: every tile visits the device, and the weighted mean of the answers is
    gathered where the volume lives.
    """

    def ask(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where = ()) -> Tensor:
        moment = t.to(device, torch.float32)

        def answers() -> Iterator[Tensor]:
            for i in range(len(tiling)):
                seen = None if condition is None else tiling.extract(condition, i).to(device)
                answer = network(tiling.extract(x_t, i).to(device), moment, seen, (*where, i))
                yield answer.to(x_t.device)

        return tiling.merge(answers())

    return ask
