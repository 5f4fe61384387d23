"""Does the puzzle's grid go away when predictions of shifted volumes are averaged?

    python -m benchmarks.shifts RESULTS/DATASET/CONFIG/fold_0 PREPROCESSED/DATASET

A volume is extended by a voxel before its first along some axes, so that the grid falls elsewhere on the anatomy,
translated, and cut back; the mean over no, two opposite and all eight shifts, on the cases that the fold has not seen.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from benchmarks.trials import device
from nndiff import checkpoint
from nndiff.imaging import store
from nndiff.metrics.grid import grid_index
from nndiff.metrics.image import psnr
from nndiff.translate import build_model
from nndiff.tuning.measure import Bench
from nndiff.volume import FloatArray

HEADS = ("mean over", "PSNR", "phase bias", "imbalance", "excess")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("fold", type=Path, help="its folder, with checkpoint_best.pt")
    parser.add_argument("prepared", type=Path, help="the dataset's folder of prepared cases")
    arguments = parser.parse_args(argv)
    found = checkpoint.load(arguments.fold / "checkpoint_best.pt")
    model = build_model(found.plan, found.configuration, [found.ema], device())
    bench = Bench(model, found.plan, arguments.prepared / found.configuration)
    rows = np.mean([_rows(bench, case) for case in found.run.validation], axis=0)
    print("| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
    for shifts, row in zip((1, 2, 8), rows, strict=True):
        print(f"| {shifts} | {row[0]:.2f} | " + " | ".join(f"{value:.4f}" for value in row[1:]) + " |")
    return 0


def _rows(bench: Bench, case: str) -> list[tuple[float, ...]]:
    arrays = store.open_case(bench.folder, case)
    source, truth = np.array(arrays["source"]), np.array(arrays["target"])[0]
    every = [_shifted(bench, case, source, shift) for shift in itertools.product((0, 1), repeat=3)]
    bounds = (float(truth.min()), float(truth.max()))
    means = [np.mean(some, axis=0, dtype=np.float32) for some in (every[:1], every[:: len(every) - 1], every)]
    factor = bench.model.configuration.puzzle_factor
    return [(psnr(mean, truth, bounds), *astuple(grid_index(mean, truth, factor))) for mean in means]


def _shifted(bench: Bench, case: str, source: FloatArray, shift: tuple[int, ...]) -> FloatArray:
    extended = np.pad(source, ((0, 0), *((voxels, 0) for voxels in shift)), mode="reflect")
    estimate = bench.estimate(bench.model.configuration.sampler, case, extended)[0]
    return np.asarray(estimate[tuple(slice(voxels, None) for voxels in shift)])


if __name__ == "__main__":
    sys.exit(main())
