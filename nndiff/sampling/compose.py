"""Composition of the network that a sampler evaluates: tiles around the mean over folds around layers and caches.

    (x_t, t, condition, where) → output          tiles( mean over folds( shifts …( caches …( network ))))

`where` collects the numbers of the tile, the fold and the evaluation in every layer. It is the key of the features that
are kept from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from nndiff.assemble import autocast
from nndiff.imaging.tiles import Tiling
from nndiff.walk.caches import Keeping
from nndiff.walk.layers import Asks, Layer, Where, ordered
from nndiff.words.volume import Triple

Network = Callable[..., Tensor]  # (x_t, t, condition, *caches) → output
OnTile = Callable[[], object]  # called after every tile


def plain(network: Network) -> Asks:
    """Return the network with the interface that layers and caches use; it ignores `where`."""

    def ask(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where, *kept: object) -> Tensor:
        output: Tensor = network(x_t, t, condition, *kept)
        return output

    return ask


def layered(network: Network, layers: Sequence[Layer], keeping: Sequence[Keeping], puzzle_factor: Triple) -> Asks:
    """Return the network of one fold with the caches innermost, then the layers in the order of their table."""
    asks: Asks = plain(network)
    for kept in keeping:
        asks = kept.around(asks)
    for layer in reversed(ordered([layer for layer in layers if not layer.sees_volume])):
        asks = layer.around(asks, puzzle_factor)
    return asks


def averaged(networks: Sequence[Asks], precision: str) -> Asks:
    """Return the mean output of the networks of several folds, each of which runs under an autocast of its own.

    Neither an output nor the weights that autocast converts are kept for the folds after it: memory does not grow with
    the number of folds.
    """

    def ask(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where) -> Tensor:
        def answer(fold: int) -> Tensor:
            with autocast(x_t.device.type, precision):
                return networks[fold](x_t, t, condition, (*where, fold)).float()

        total = answer(0)
        for fold in range(1, len(networks)):
            total = total + answer(fold)
        return total if len(networks) == 1 else total / len(networks)

    return ask


def tiled(network: Asks, tiling: Tiling, device: torch.device, on_tile: OnTile = lambda: None) -> Asks:
    """Return the network of a whole volume.

    Every tile is copied to the device. The weighted mean of the outputs is formed on the device of the volume.
    """

    def ask(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where = ()) -> Tensor:
        moment = t.to(device, torch.float32)

        def answers() -> Iterator[Tensor]:
            for i in range(len(tiling)):
                seen = None if condition is None else tiling.extract(condition, i).to(device)
                answer = network(tiling.extract(x_t, i).to(device), moment, seen, (*where, i))
                yield answer.to(x_t.device)
                on_tile()

        return tiling.merge(answers())

    return ask
