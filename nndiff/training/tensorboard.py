"""The rows of progress.csv as curves of TensorBoard, in the fold's folder tensorboard/. Needs the extra tensorboard."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nndiff.checkpoint import Epoch
from nndiff.words.errors import NndiffError

FOLDER = "tensorboard"


class Board:
    """A listener that writes every epoch as one point per curve.

    Points of epochs that are trained again after a kill take the place of the earlier ones.
    """

    def __init__(self, fold: Path):
        self.folder = fold / FOLDER
        self.make = _writer()
        self.writer: Any = None

    def __call__(self, epoch: Epoch) -> None:
        if self.writer is None:
            self.writer = self.make(str(self.folder), purge_step=epoch.step)
        for name, value in points(epoch):
            self.writer.add_scalar(name, value, epoch.step)
        self.writer.flush()


def points(epoch: Epoch) -> Iterator[tuple[str, float]]:
    """Yield the name of each curve and its value; losses by interval of time are curves of one group."""
    for field in dataclasses.fields(epoch):
        value = getattr(epoch, field.name)
        if isinstance(value, dict):
            yield from ((f"{field.name}/{interval}", own) for interval, own in value.items())
        elif isinstance(value, (int, float)) and field.name != "step":
            yield field.name, value


def _writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise NndiffError(
            "--tensorboard needs TensorBoard, which is not installed.",
            remedy='pip install "nndiff[tensorboard]" (in a checkout: pip install -e ".[tensorboard]")',
        ) from None
    return SummaryWriter
