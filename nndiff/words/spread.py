"""The mean and the standard deviation of an image channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nndiff.words.fields import Checked, above


@dataclass(frozen=True)
class Spread(Checked):
    mean: float
    std: Annotated[float, above(0)]
