"""A prediction: the difference of the target and the source."""

from __future__ import annotations

from torch import Tensor

from nndiff.diffusion.prediction import Prediction
from nndiff.diffusion.process import Process


class Correction(Prediction):
    def target(self, process: Process, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        assert y is not None, "a correction needs a source"
        return x0 - y

    def x0(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        assert y is not None, "a correction needs a source"
        return y + output
