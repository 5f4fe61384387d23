"""A test of the memory of a walk beside its network: all arrays that it holds, followed by their storages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import card
from nndiff.imaging.tiles import Tiling
from nndiff.resources.ghosts import Tracer
from nndiff.resources.memory import volume_bytes
from nndiff.sampling.translate import Arrangement, translate
from nndiff.words.volume import Triple


class Followed(Tracer):
    """A tracer whose operations run on real tensors."""

    def __init__(self) -> None:
        super().__init__("cpu", trains=False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, list | tuple) else [out]:
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out


class Silent(nn.Module):
    """A network without maps of its own: it answers with x_t as image and as expected error."""

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, *kept: Any) -> Tensor:
        return torch.cat([x_t, x_t], dim=1)


@pytest.mark.parametrize("evaluations", [1, 4])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("shape", [(160, 24, 24), (24, 48, 40)], ids=str)
def test_a_walk_of_the_planned_bridge_holds_what_it_was_counted_for(
    shape: Triple, parts: int, evaluations: int, tmp_path: Path
) -> None:
    model = replace(card.untrained(card.Lab("cpu", True, tmp_path)), networks=(Silent(),))
    sampler = card.in_steps(model.configuration.sampler, evaluations)
    size = (shape[0] // parts, shape[1] // parts, shape[2] // parts)
    tiles = Arrangement(Tiling(shape, size, 0.5), torch.device("cpu"), 0)
    source = torch.randn(1, *shape)
    with Followed() as found:
        translate(model, source, shape, sampler, torch.Generator().manual_seed(0), [tiles])
    told = volume_bytes(model.configuration.network, shape)
    assert 0.6 * told < found.peak <= told
