"""Compare a set of generated volumes with held-out scans, which the model has not seen, and write generation.json.

    generated ─ the plan's map ─▶ [-1, 1] ─ extractor ─▶ features ─ distances to those of as many held-out scans

The same number of training scans is evaluated in the same way: this row gives the values of another set of real scans,
and the values of the generated volumes can only be judged relative to it. Every value depends on the number of volumes
and is recorded with the name of its features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nndiff.data.prepare import empty
from nndiff.evaluation.cases import channels_of, images_of
from nndiff.imaging import io, store
from nndiff.imaging.normalize import Affine
from nndiff.metrics.distribution import Figures, Nearest, bootstrap, compare_sets, frechet, nearest
from nndiff.metrics.features import Extractor
from nndiff.plans.plan import Configuration, Plan
from nndiff.words.errors import NndiffError
from nndiff.words.files import demand_writable, write_json
from nndiff.words.strict_json import encode
from nndiff.words.volume import FloatArray, Floats

FILE = "generation.json"
GENERATED, TRAINING = "generated", "training scans"
FEWEST = 2


@dataclass(frozen=True)
class Compared:
    """The comparison of one set with the held-out scans."""

    name: str
    figures: Figures
    fid_interval: tuple[float, float]  # 95 %, by bootstrap
    memorised: Nearest  # of the generated volumes; in the row of the training scans, of the held-out scans


@dataclass(frozen=True)
class Judged:
    channel: str
    held_out: tuple[str, ...]
    rows: tuple[Compared, ...]


def judge(
    plan: Plan,
    name: str,
    prepared: Path,  # preprocessed/DATASET/CONFIGURATION
    training: Sequence[str],
    held_out: Sequence[str],
    generated: Path,
    output: Path,
    extractor: Extractor,
    most: int | None = None,
) -> list[Judged]:
    """Return the comparison of each target channel, with equally many volumes in both sets, at most `most`."""
    if plan.task != "generation":
        raise NndiffError(
            "nndiff_evaluate_generation works only for datasets for generation.",
            found=f"{plan.dataset}, a dataset for translation, where each volume has a true target",
            remedy="run nndiff_evaluate GT PRED -o FOLDER",
        )
    if most is not None and most < FEWEST:
        raise NndiffError("A set must have several volumes.", expected=f"-n {FEWEST} or more", found=most)
    demand_writable(output)
    files = _files(generated, len(plan.target_channels))
    n = min(len(files), len(held_out), *([most] if most else []))
    if n < FEWEST:
        raise NndiffError(
            "There are too few volumes to compare two sets.",
            expected=f"at least {FEWEST} generated and {FEWEST} held-out scans, and hundreds for results to report",
            found=f"{len(files)} generated, {len(held_out)} held out",
            where=generated,
            remedy="generate more (nndiff_predict -n 64); use a fold other than 'all', which has no held-out case",
        )
    blocks = []
    maps = empty(plan.preparation(name)).undo.maps
    for c, channel in enumerate(plan.target_channels):
        volumes = (_read(paths[c], maps[c], plan.configurations[name]) for paths in files[:n])
        made = features_of(volumes, plan.target_range[c], extractor)
        real, seen = (
            features_of(
                (store.open_case(prepared, case)["target"][c] for case in cases), plan.target_range[c], extractor
            )
            for cases in (held_out[:n], training)
        )
        rows = [_compared(GENERATED, real, made, extractor, nearest(made, seen))]
        if len(seen) >= n:
            rows.append(_compared(TRAINING, real, seen[:n], extractor, nearest(real, seen)))
        blocks.append(Judged(channel.name, tuple(held_out[:n]), tuple(rows)))
    write_json(output / FILE, encode(tuple(blocks)))
    return blocks


def features_of(volumes: Iterable[FloatArray], limits: tuple[float, float], extractor: Extractor) -> Floats:
    """Return the features [N, D] of volumes in network units, after mapping the range `limits` to [-1, 1]."""
    low, high = limits
    onto_one = (np.clip(2 * (np.asarray(volume) - low) / (high - low) - 1, -1, 1) for volume in volumes)
    return np.stack([extractor(volume.astype(np.float32)) for volume in onto_one])


def _compared(name: str, real: Floats, other: Floats, extractor: Extractor, memorised: Nearest) -> Compared:
    figures = compare_sets(real, other, extractor.name)
    return Compared(name, figures, bootstrap(frechet, real, other), memorised)


def _files(folder: Path, channels: int) -> list[list[Path]]:
    """Return the files of the channels of every volume."""
    found = channels_of(images_of(folder, "generated volumes"))
    if not found:
        raise NndiffError(
            "The folder contains no generated volume.",
            expected="volume_000_0000.nii.gz, …",
            where=folder,
            remedy="generate volumes: nndiff_predict -d ID -c CONFIG -n 64 -o OUT",
        )
    for name, files in found.items():
        if sorted(files) != list(range(channels)):
            raise NndiffError(
                "The channels of a generated volume differ from those of the plan.",
                expected=f"{name}_0000 to {name}_{channels - 1:04d}",
                found=", ".join(files[c].name for c in sorted(files)),
                where=folder,
                remedy="use the plan with which the volumes were generated",
            )
    return [[files[c] for c in range(channels)] for files in found.values()]


def _read(path: Path, affine: Affine, planned: Configuration) -> FloatArray:
    volume = io.read([path])
    close = np.allclose(volume.grid.spacing, planned.spacing, rtol=1e-3)
    if volume.grid.shape != planned.volume_shape or not close:
        raise NndiffError(
            "The grid of a volume differs from that of the plan.",
            expected=f"{planned.volume_shape} voxels of {planned.spacing} mm",
            found=f"{volume.grid.shape} voxels of {volume.grid.spacing} mm",
            where=path,
            remedy="use the plan with which the volumes were generated",
        )
    return affine.forward(volume.array[0])
