"""A network family: three convolutions at full resolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from nndiff.families.family import Channels, Explain, NetworkSpec, Rung
from nndiff.families.sizes import patches
from nndiff.words.fields import one_of
from nndiff.words.verdict import Verdict
from nndiff.words.volume import Spacing, Triple


class Plain(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int):
        super().__init__()
        self.time = nn.Linear(1, width)
        self.first, self.second = nn.Conv3d(inputs, width, 3, padding=1), nn.Conv3d(width, width, 3, padding=1)
        self.last = nn.Conv3d(width, outputs, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        seen = x_t if condition is None else torch.cat([x_t, condition], dim=1)
        h = torch.relu(self.first(seen) + self.time(t[:, None])[..., None, None, None])
        return self.last(torch.relu(self.second(h)))  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class PlainSpec(NetworkSpec):
    name = "plain"

    recompute: Annotated[str, one_of("none")] = "none"

    @classmethod
    def ladder(cls, shape: Triple, spacing: Spacing, tiled: bool, device: str) -> Iterator[Rung]:
        for patch in patches(shape, spacing):
            for width in (16, 8):
                yield Rung((1, 1, 1), patch, spacing, 2, width, "none")

    @classmethod
    def on(cls, rung: Rung, channels: Channels) -> PlainSpec:
        return cls(
            in_channels=channels.inputs, out_channels=channels.outputs, width=rung.width, answers=channels.answers
        )

    def reasons(self, rung: Rung, whole: Triple, device: str, fits: str, verdict: Explain) -> dict[str, Verdict[Any]]:
        return {
            "puzzle_factor": verdict(rung.puzzle_factor, f"this network knows no puzzle; {fits}"),
            "patch_size": verdict(rung.patch_size, "the largest part of the volume that fits"),
            "batch_size": verdict(rung.batch_size, "two patches per step"),
            "network": verdict(self, f"three convolutions, {rung.width} wide"),
        }

    def build(self, puzzle_factor: Triple) -> nn.Module:
        network = Plain(self.in_channels, self.out_channels, self.width)
        return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]
