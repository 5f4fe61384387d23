"""A start that puts the local mean of the source in the place of the unknown target."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from nndiff.diffusion.process import Process
from nndiff.diffusion.walk import Denoise
from nndiff.walk.starts import Shortcut
from nndiff.words.fields import at_least, option


@dataclass(frozen=True)
class Smooth(Shortcut):
    name = "smooth"

    voxels: int = option(3, at_least(1), help="over which the mean is taken along each axis")

    def __call__(
        self, process: Process, like: Tensor, y: Tensor | None, t: float, denoise: Denoise, noise: Tensor
    ) -> Tensor:
        assert y is not None
        half = self.voxels // 2
        mean = F.avg_pool3d(F.pad(y, (half,) * 6, mode="replicate"), 2 * half + 1, 1)
        return super().__call__(process, like, mean, t, denoise, noise)
