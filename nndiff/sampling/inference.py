"""The contents of inference.json: the sampler that tuning chose for one checkpoint, and all measurements.

The file is stored beside the checkpoint and contains a hash of its weights; beside another checkpoint it is refused.
It holds no measured time, so that tuning again gives the same file.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nndiff.plans import migrate
from nndiff.sampling.dial import Stop
from nndiff.walk.layers import Tiles
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, write_json
from nndiff.words.strict_json import LEFT_OUT, decode, encode

FILE = "inference.json"


@dataclass(frozen=True)
class Row:
    """The measurement of one sampler: means over `cases` volumes, in network units."""

    label: str
    sampler: SamplerPlan
    score: float
    psnr: float
    ssim: float
    mae: float
    hf: float
    cases: int
    # None in files that were written before it was counted.
    evaluations: float | None = None  # of the whole network, per volume
    # None in a file.
    seconds: float | None = field(default=None, metadata={LEFT_OUT: True})  # per volume, as measured
    # None if it cannot be measured, and in files that were written before texture was measured locally.
    texture_db: float | None = None  # distance from the truth's texture; its penalty is part of the score
    hf_body: float | None = None
    hf_air: float | None = None
    correlation_bias: float | None = None


@dataclass(frozen=True)
class Drawn:
    """What several draws of one sampler say of its spread; errors and CRPS in network units, over all voxels."""

    label: str
    sampler: SamplerPlan
    draws: int
    crps: float
    point_mae: float  # of one step: the CRPS of a point
    psnr: float  # of a single draw
    mean_psnr: float  # of the mean of the draws
    spread_over_error: float  # rms spread over rms error of the mean, on other cases than `scale` where there are any
    scale: float  # factor of the spread that makes the two equal on the cases of the choice
    cases: int


@dataclass(frozen=True)
class Inference:
    """The result of tuning one checkpoint."""

    checkpoint: str  # file name
    weights: str  # hash of the weights
    objective: str
    sampler: SamplerPlan  # the chosen one
    best: SamplerPlan  # the best of the sweep
    planned: SamplerPlan
    chosen_on: tuple[str, ...]  # the cases on which the sampler was chosen
    reported_on: tuple[str, ...]  # other cases, where there are any; else the same
    sweep: tuple[Row, ...]  # all samplers, on the cases `chosen_on`
    report: tuple[Row, ...]  # the chosen, the best and the planned sampler, on the cases `reported_on`
    best_minus_chosen: float  # mean difference of the scores in the report
    standard_error: float  # of that difference, over the cases
    dial: tuple[Stop, ...] = ()  # the measured samplers between the mean and the texture, on the cases `chosen_on`
    untried: int = 0  # samplers that were not measured for lack of time
    drawn: Drawn | None = None  # several draws of the sampler at the texture's end; None if it is deterministic
    versions: dict[str, str] = field(default_factory=dict)  # of the software that made it


def save(folder: Path, inference: Inference) -> Path:
    rows = (inference.sweep, inference.report)
    sweep, report = (tuple(replace(row, seconds=None) for row in every) for every in rows)
    write_json(folder / FILE, encode(replace(inference, sweep=sweep, report=report)))
    return folder / FILE


def load(folder: Path, checkpoint: str, planned: SamplerPlan, weights: str) -> Inference | None:
    """Return the tuning result of the checkpoint; None if there is none, or only that of another file of the fold.

    `planned` is the sampler in the plan of the checkpoint. For files that were written before samplers had parts, the
    overlap of the tiles is taken from it.
    """
    path = folder / FILE
    if not path.exists():
        return None
    data = read_json(path)
    try:
        found = decoded(data, planned)
    except NndiffError as error:
        raise error.at(path) from None
    if found.checkpoint != checkpoint:
        return None
    demand_weights(found, weights, path, "run nndiff_tune again, or delete the file to use the planned sampler")
    return found


def decoded(data: Any, planned: SamplerPlan, where: str = FILE) -> Inference:
    """Return the tuning result that JSON of the current or an older version describes."""
    return decode(Inference, _migrated(data, planned.part(Tiles).overlap), where)


def demand_weights(found: Inference, weights: str, where: Path, remedy: str) -> None:
    """Refuse the tuning result of other weights than those with this hash."""
    if found.weights != weights:
        raise NndiffError(
            f"{FILE} was tuned for another checkpoint.",
            expected=f"weights {weights}",
            found=f"weights {found.weights}",
            where=where,
            remedy=remedy,
        )


@migrate.in_words
def _migrated(data: Any, overlap: float) -> Any:
    """Return the JSON of the file with every sampler in its current form."""
    if migrate.is_old_sampler(data):
        return migrate.sampler(data, overlap)
    if isinstance(data, dict):
        return {key: _migrated(value, overlap) for key, value in data.items()}
    return [_migrated(item, overlap) for item in data] if isinstance(data, list) else data


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Return a hash of the weights; it does not depend on the file that holds them."""
    checksum = 0
    for name in sorted(weights):
        checksum = zlib.crc32(weights[name].contiguous().numpy().tobytes(), zlib.crc32(name.encode(), checksum))
    return f"{checksum:08x}"
