"""Does averaging over places of the puzzle's grid remove the grid from a prediction, and what does it gain?

    python -m benchmarks.shifts RESULTS/DATASET/CONFIG/fold_0 PREPROCESSED/DATASET [--steps 1 4 10]

The planned sampler at 1, 2, … places of the grid, up to the puzzle's factor, on the cases that the fold has not trained
on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from benchmarks.trials import device, figures_of, in_steps, pair
from nndiff import checkpoint
from nndiff.imaging import store
from nndiff.metrics.grid import grid_index
from nndiff.sampling.translate import build_model
from nndiff.tuning.measure import Bench
from nndiff.walk.layers import Shifts
from nndiff.walk.sampler import SamplerPlan

HEADS = ("sampling steps", "shifts", "s per volume", "PSNR", "SSIM", "HF", "phase bias", "imbalance", "excess")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("fold", type=Path, help="the fold's folder, with checkpoint_best.pt")
    parser.add_argument("prepared", type=Path, help="the dataset's folder of prepared cases")
    parser.add_argument("--steps", type=int, nargs="+", default=[1], metavar="N", help="sampling steps to measure (1)")
    arguments = parser.parse_args(argv)
    found = checkpoint.load(arguments.fold / "checkpoint_best.pt")
    model = build_model(found.plan, found.configuration, [found.ema], device())
    bench = Bench(model, found.plan, arguments.prepared / found.configuration)
    print("| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
    for steps in arguments.steps:
        for shifts in range(1, max(model.configuration.puzzle_factor) + 1):
            sampler = in_steps(model.configuration.sampler, steps).with_part(Shifts(shifts))
            row = np.mean([_row(bench, sampler, case) for case in found.run.validation], axis=0)
            print(f"| {steps} | {shifts} | " + " | ".join(f"{value:.4g}" for value in row) + " |", flush=True)
    return 0


def _row(bench: Bench, sampler: SamplerPlan, case: str) -> tuple[float, ...]:
    source, (_, target) = np.array(store.open_case(bench.folder, case)["source"]), pair(bench.plan, bench.folder, case)
    clock = time.perf_counter()
    estimate = bench.estimate(sampler, case, source)
    seconds, found = time.perf_counter() - clock, figures_of(bench.plan, estimate, target)
    grid = grid_index(estimate[0], target[0], bench.model.configuration.puzzle_factor)
    return (seconds, found.psnr, found.ssim, found.hf, *astuple(grid))


if __name__ == "__main__":
    sys.exit(main())
