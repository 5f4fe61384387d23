"""All that a prediction is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nndiff.checkpoint import BEST


@dataclass(frozen=True)
class Request:
    output: Path
    model: Path  # a configuration's folder, or one of its folds
    input: Path | None = None  # None: generation
    volumes: int = 1  # to generate
    folds: tuple[str, ...] | None = None  # None: all that were trained
    checkpoint: str = BEST
    configuration: str | None = None  # what the caller thinks it is
    sampler: Mapping[str, Any] = field(default_factory=dict)  # what differs from the model's own: flag → value
    save_uncertainty: bool = False
    save_samples: bool = False
    dicom_out: bool = False
    seed: int = 0
    device: str | None = None
    go_on: bool = False
    part: int = 0
    parts: int = 1
    quiet: bool = False
