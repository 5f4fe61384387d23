"""Does a training improve on its initial output? Ten plans per dataset, each for at most a tenth of its steps.

    python -m benchmarks.starts [-o FOLDER] [--minutes M] [--plans r2 r4+network.width=96 …]

A run is as long as planned, or as long as fits into M minutes. After a fortieth, a twentieth and a tenth of its steps
the held-out volumes are predicted in one step from the source. A plan passes as soon as this scores higher than
returning the source, its local mean or one constant (the baseline of `NOT LEARNING` in training), and if no gradient
was NaN. The learning rates are those of the whole run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.trials import NAME, Data, begun, device, figures_of, pair, prepared, simulated, step_seconds, varied
from nndiff.planning import recipe
from nndiff.plans.plan import Plan
from nndiff.sampling.scoring import Figures
from nndiff.sampling.translate import build_model
from nndiff.training.alarms import LEAST_GAIN
from nndiff.training.validation import without_network
from nndiff.tuning.measure import Bench
from nndiff.words.errors import NndiffError

LARGER = "patch_size=[48,48,48]+batch_size=2"
PLANS = ("r1", "r1+network.width=16", "r2", "r2+network.width=16", "r2+network.width=48", "r2+network.width=64")
PLANS += ("r122", "r4", "r4+network.width=96", f"r2+{LARGER}")
SHARES = (40, 20, 10)  # the steps over these are where a run is measured; it ends at the last
HEADS = ("dataset", "plan", "steps", "of", "PSNR", "score", "score without network", "verdict")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("starts"), metavar="FOLDER")
    parser.add_argument(
        "--raw", type=Path, nargs="+", default=[], metavar="RAW/DATASET", help="instead of simulated scans"
    )
    parser.add_argument("--plans", nargs="+", default=PLANS, metavar="PLAN")
    parser.add_argument("--minutes", type=float, default=None, help="length of a whole training (as planned)")
    parser.add_argument("--held_out", type=int, default=4, metavar="N", help="volumes to measure on (4)")
    arguments = parser.parse_args(argv)
    failed = 0
    print("| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
    for raw in arguments.raw or simulated(arguments.output, arguments.held_out, [0.1]):
        data = prepared(raw, arguments.output, arguments.held_out)
        plans = {name: varied(data.plan, name) for name in arguments.plans}
        seconds = {}
        if arguments.minutes:
            parts = {name: (data, plan) for name, plan in plans.items()}
            seconds = step_seconds(parts, arguments.output / f"{raw.name}.json")
        for name, plan in plans.items():
            planned = plan.configurations[NAME]
            steps = recipe.training_steps(planned.budget, planned.predicted.training_flops).value
            if arguments.minutes:
                steps = int(60 * arguments.minutes / seconds[name])
            verdict, cells = _started(data, plan, steps)
            failed += verdict != "left"
            print("| " + " | ".join([raw.name, name, *cells, verdict]) + " |", flush=True)
    return 1 if failed else 0


def _started(data: Data, plan: Plan, steps: int) -> tuple[str, list[str]]:
    trainer, walk = begun(data, plan, steps, 0)
    sampler = plan.configurations[NAME].sampler
    level = np.mean([pair(plan, data.folder, case)[1].mean(axis=(1, 2, 3)) for case in data.training], axis=0)
    plain = fmean(max(f.score() for f in _plain(data, plan, case, level)) for case in data.held)
    cells = [""] * 5
    for before, until in pairwise((0, *(max(1, steps // share) for share in SHARES))):
        try:
            for _ in islice(walk, until - before):
                pass
        except NndiffError as error:
            return error.what, cells
        bench = Bench(build_model(plan, NAME, [trainer.ema.values], device()), plan, data.folder)
        found = bench.measure(sampler, data.held).figures.values()
        score = fmean(f.score() for f in found)
        psnr = fmean(f.psnr for f in found)
        cells = [str(until), str(steps), f"{psnr:.2f}", f"{score:.2f}", f"{plain:.2f}"]
        if score > plain + LEAST_GAIN:
            return "left", cells
    return "NOT LEARNING", cells


def _plain(data: Data, plan: Plan, case: str, level: np.ndarray) -> list[Figures]:
    source, target = pair(plan, data.folder, case)
    planned = plan.configurations[NAME]
    kernel = planned.network.local_mean_kernel(planned.puzzle_factor)
    return [figures_of(plan, array, target) for array in without_network(source, level, kernel, plan.target_range)]


if __name__ == "__main__":
    sys.exit(main())
