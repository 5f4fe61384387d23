"""inference.json: which sampler suits one checkpoint best, as it was measured, and what was measured.

It stands beside the checkpoint and names it by its weights: beside any other it is refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nndiff.plans import migrate
from nndiff.walk.layers import Tiles
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, write_json
from nndiff.words.strict_json import decode, encode

FILE = "inference.json"


@dataclass(frozen=True)
class Row:
    """One sampler, measured: means over `cases` volumes, in network units."""

    label: str
    sampler: SamplerPlan
    score: float
    psnr: float
    ssim: float
    mae: float
    hf: float
    seconds: float  # a volume
    cases: int


@dataclass(frozen=True)
class Inference:
    checkpoint: str  # the file's name
    weights: str  # its digest
    objective: str
    sampler: SamplerPlan  # the chosen
    best: SamplerPlan  # of the sweep
    planned: SamplerPlan
    chosen_on: tuple[str, ...]
    reported_on: tuple[str, ...]  # none of those, where there are others
    sweep: tuple[Row, ...]  # on the cases that chose
    report: tuple[Row, ...]  # on the others, of these three
    best_minus_chosen: float  # of the scores there, and its standard error over the cases
    standard_error: float


def save(folder: Path, inference: Inference) -> Path:
    write_json(folder / FILE, encode(inference))
    return folder / FILE


def load(folder: Path, checkpoint: str, planned: SamplerPlan, weights: str) -> Inference | None:
    """Return what was tuned for that checkpoint; None where nothing was, or for another of the fold's checkpoints.

    `planned` is the checkpoint's own sampler: files from before samplers had parts take their tiles from it.
    """
    path = folder / FILE
    if not path.exists():
        return None
    found = decode(Inference, _migrated(read_json(path), planned.part(Tiles).overlap), FILE)
    if found.checkpoint != checkpoint:
        return None
    if found.weights != weights:
        raise NndiffError(
            f"{FILE} belongs to another checkpoint.",
            expected=f"weights {weights}",
            found=f"weights {found.weights}",
            where=path,
            remedy="run nndiff_tune again, or delete the file to predict as planned",
        )
    return found


def _migrated(data: Any, overlap: float) -> Any:
    """Return the file's JSON with every sampler in the form of today."""
    if migrate.is_old_sampler(data):
        return migrate.sampler(data, overlap)
    if isinstance(data, dict):
        return {key: _migrated(value, overlap) for key, value in data.items()}
    return [_migrated(item, overlap) for item in data] if isinstance(data, list) else data


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """The same for the same weights, wherever their file lies."""
    checksum = 0
    for name in sorted(weights):
        checksum = zlib.crc32(weights[name].contiguous().numpy().tobytes(), zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"
