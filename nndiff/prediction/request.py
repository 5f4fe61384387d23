"""All that a prediction is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    start: str | None = None  # None: as planned, and so below
    ts: int | None = None
    steps: int | None = None
    eta: float | None = None
    order: int | None = None
    hot: int | None = None
    shifts: int | None = None
    reuse: int | None = None  # N: every N-th step is a full one
    reuse_depth: int | None = None
    reuse_threshold: float | None = None  # decide while walking
    samples: int | None = None
    save_uncertainty: bool = False
    save_samples: bool = False
    dicom_out: bool = False
    step_size: float | None = None  # of tiles, as a share of their size
    seed: int = 0
    device: str | None = None
    go_on: bool = False
    part: int = 0
    parts: int = 1
    quiet: bool = False
