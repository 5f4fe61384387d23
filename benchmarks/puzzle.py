"""The price of the puzzle: one recipe at several factors on the same patches, at equal time and at equal steps.

    python -m benchmarks.puzzle [-o FOLDER] [--quick] [--raw RAW/DATASET …] [--variants r1 r2 …] [--equal time steps]

Every variant is this machine's plan with another puzzle: patch, batch, width, loss and rates stay, and the levels
follow. A variant may change more of the plan: r2+network.width=48. Equal time means as many steps as fit into it, by
step times that are measured with the variants taking turns. There is no validation in between. Figures are of whole
held-out volumes, in network units, with the moving average of the weights. A finished training is not repeated: run
the same command to continue, or to add variants.

Differences from the first variant are paired over the volumes, each the mean over the seeds; ± is a 95 % interval over
the volumes (Student's t), and beside it stands the range over the seeds. The grid index of a variant is computed for
its own factor (2 where it has none). The same index of the input and of the filtered input, which have no grid, shows
what it reads there; a second table lists the differences.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from itertools import groupby
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np
from scipy.stats import t as student

from benchmarks.memory import training_peak
from benchmarks.trials import (
    FACTORS,
    NAME,
    PLAIN,
    Data,
    baseline,
    begun,
    device,
    figures_of,
    in_steps,
    pair,
    prepared,
    simulated,
    step_seconds,
    varied,
)
from nndiff.imaging import store
from nndiff.metrics.grid import grid_index
from nndiff.plans.plan import Configuration, Plan
from nndiff.resources.memory import remembered
from nndiff.sampling.translate import build_model
from nndiff.tuning.measure import Bench
from nndiff.words.files import atomic
from nndiff.words.volume import FloatArray, Triple

NFE = (1, 4, 10)
HEADS = ("variant", "steps", "s per step", "training MB", "sampling steps", "s per volume", "PSNR", "SSIM", "MAE", "HF")
HEADS += ("phase bias", "imbalance", "excess", "PSNR difference to the first", "range over seeds")
GRID = {"bias": 4, "imbalance": 4, "excess": 3}  # digits


@dataclass(frozen=True)
class Row:
    """One volume, translated by one training."""

    dataset: str
    equal: str  # time | steps
    variant: str
    seed: int
    steps: int
    step_seconds: float
    training_mb: float
    nfe: int
    case: str
    seconds: float
    psnr: float
    ssim: float
    mae: float
    hf: float
    bias: float
    imbalance: float
    excess: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("puzzle"), metavar="FOLDER")
    parser.add_argument(
        "--raw", type=Path, nargs="+", default=[], metavar="RAW/DATASET", help="instead of simulated scans"
    )
    parser.add_argument("--variants", nargs="+", default=list(FACTORS), metavar="VARIANT")
    parser.add_argument("--equal", nargs="+", choices=("time", "steps"), default=["time", "steps"])
    parser.add_argument("--minutes", type=float, default=3.0, help="length of a training at equal time (3)")
    parser.add_argument("--steps", type=int, default=300, help="training steps at equal steps (300)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held_out", type=int, default=8, metavar="N", help="volumes to measure on (8)")
    parser.add_argument("--quick", action="store_true", help="low counts only, r1 r2 haar, one minute, one seed")
    arguments = parser.parse_args(argv)
    raws = arguments.raw or simulated(arguments.output, arguments.held_out, [0.1])
    if arguments.quick:
        raws, arguments.variants, arguments.equal = raws[:1], ["r1", "r2", "haar"], ["time"]
        arguments.minutes, arguments.seeds = 1.0, 1
    rows = []
    for raw in raws:
        data = prepared(raw, arguments.output, arguments.held_out)
        plans = {variant: varied(data.plan, variant) for variant in arguments.variants}
        seconds = step_seconds(
            {name: (data, plan) for name, plan in plans.items()}, arguments.output / f"{raw.name}.json"
        )
        for equal in arguments.equal:
            for seed in range(arguments.seeds):
                for variant, plan in plans.items():
                    fitting = int(60 * arguments.minutes / seconds[variant])
                    steps = fitting if equal == "time" else arguments.steps
                    path = arguments.output / "runs" / f"{raw.name}_{variant}_{steps}_{seed}.csv"
                    if not path.exists():
                        label = replace(NOTHING, dataset=raw.name, equal=equal, variant=variant, seed=seed, steps=steps)
                        _save(_run(data, plan, replace(label, step_seconds=seconds[variant])), path)
                    rows += [replace(row, equal=equal) for row in _read(path)]
            some = [row for row in rows if (row.dataset, row.equal) == (raw.name, equal)]
            _print(some, f"{raw.name}, equal {equal}", _plain(data, plans.values()), arguments.variants)
    _save(rows, arguments.output / "puzzle.csv")
    return 0


# ---------------------------------------------------------------- a training


def _run(data: Data, plan: Plan, label: Row) -> list[Row]:
    clock = time.perf_counter()
    trainer, walk = begun(data, plan, label.steps, label.seed)
    losses = [step.loss for step in walk]
    took = time.perf_counter() - clock
    tenth = len(losses) // 10
    print(
        f"{label.dataset} {label.variant} seed {label.seed}: {label.steps} steps in {took:.0f} s, loss {losses[0]:.4f}"
        f" → {fmean(losses[tenth : max(tenth + 1, len(losses) // 5)]):.4f} at a tenth → {fmean(losses[-10:]):.4f}",
        file=sys.stderr,
    )
    peak = _peak_mb(plan.configurations[NAME], device().type)
    bench = Bench(build_model(plan, NAME, [trainer.ema.values], device()), plan, data.folder)
    return [_measured(bench, replace(label, training_mb=peak, case=case, nfe=nfe)) for nfe in NFE for case in data.held]


@remembered
def _peak_mb(configuration: Configuration, device: str) -> float:
    return training_peak(configuration, device) / 1e6


def _measured(bench: Bench, label: Row) -> Row:
    planned: Configuration = bench.model.configuration
    source = np.array(store.open_case(bench.folder, label.case)["source"])
    clock = time.perf_counter()
    estimate = bench.estimate(in_steps(planned.sampler, label.nfe), label.case, source)
    label = replace(label, seconds=time.perf_counter() - clock)
    return _figures(bench.plan, bench.folder, label, estimate, _grid(bench.plan))


def _figures(plan: Plan, folder: Path, label: Row, estimate: FloatArray, factor: Triple) -> Row:
    _, target = pair(plan, folder, label.case)
    found = figures_of(plan, estimate, target)
    bias, imbalance, excess = astuple(grid_index(estimate[0], target[0], factor))
    return replace(label, **asdict(found), bias=bias, imbalance=imbalance, excess=excess)


def _grid(plan: Plan) -> Triple:
    """Return the factor whose grid index is computed."""
    factor = plan.configurations[NAME].puzzle_factor
    return factor if max(factor) > 1 else (2, 2, 2)


# ---------------------------------------------------------------- the table


def _plain(data: Data, plans: Iterable[Plan]) -> list[Row]:
    """Return the rows of the baselines, once for each grid whose index is computed."""
    rows = []
    for kind in PLAIN:
        made = {case: baseline(data.plan, NAME, data.folder, case, kind) for case in data.held}
        for grid in dict.fromkeys(map(_grid, plans)):
            name = f"{kind}, r = {' x '.join(map(str, grid))}"
            labels = [replace(NOTHING, variant=name, case=case) for case in data.held]
            rows += [_figures(data.plan, data.folder, label, made[label.case], grid) for label in labels]
    return rows


def _print(rows: Sequence[Row], title: str, plain: Sequence[Row], variants: Sequence[str]) -> None:
    print(f"\n{title}\n\n| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
    for kind, of_kind in groupby(plain, key=lambda row: row.variant):
        print("| " + " | ".join([kind, *[""] * 5, *_quality(list(of_kind)), "", ""]) + " |")
    for nfe in NFE:
        first = [row for row in rows if (row.variant, row.nfe) == (variants[0], nfe)]
        for variant in variants:
            some = [row for row in rows if (row.variant, row.nfe) == (variant, nfe)]
            work = [str(some[0].steps), f"{some[0].step_seconds:.3g}", f"{some[0].training_mb:.0f}", str(nfe)]
            taken = f"{median(row.seconds for row in some):.3g}"
            print("| " + " | ".join([variant, *work, taken, *_quality(some), *_difference(some, first)]) + " |")
    print(
        "\n| | sampling steps | phase bias | over seeds | imbalance | over seeds | excess | over seeds |\n|"
        + "---|" * 8
    )
    for nfe in NFE:
        first = [row for row in rows if (row.variant, row.nfe) == (variants[0], nfe)]
        for variant in variants[1:]:
            some = [row for row in rows if (row.variant, row.nfe) == (variant, nfe)]
            cells = [cell for name, digits in GRID.items() for cell in _difference(some, first, name, digits)]
            print("| " + " | ".join([variant, str(nfe), *cells]) + " |")
    sys.stdout.flush()


def _quality(rows: Sequence[Row]) -> list[str]:
    def mean(name: str, digits: int) -> str:
        return f"{fmean(getattr(row, name) for row in rows):.{digits}f}"

    digits = {"psnr": 2, "ssim": 4, "mae": 5, "hf": 2} | GRID
    return [mean(name, count) for name, count in digits.items()]


def _difference(rows: Sequence[Row], first: Sequence[Row], name: str = "psnr", digits: int = 2) -> list[str]:
    """Return the mean difference over the volumes with its interval, and its range over the seeds."""
    if rows[0].variant == first[0].variant:
        return ["", ""]
    reference = {(row.case, row.seed): getattr(row, name) for row in first}
    gained = {(row.case, row.seed): getattr(row, name) - reference[row.case, row.seed] for row in rows}

    def means(place: int) -> list[float]:
        keys = sorted({key[place] for key in gained}, key=str)
        return [fmean(value for key, value in gained.items() if key[place] == each) for each in keys]

    cases, seeds = means(0), means(1)
    interval = ""  # one volume has none
    if len(cases) > 1:
        interval = f" ± {student.ppf(0.975, len(cases) - 1) * stdev(cases) / len(cases) ** 0.5:.{digits}f}"
    return [f"{fmean(cases):+.{digits}f}{interval}", f"{min(seeds):+.{digits}f} … {max(seeds):+.{digits}f}"]


NOTHING = Row("", "", "", 0, 0, 0.0, 0.0, 0, "", *[0.0] * 8)


def _save(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(
            [f"{value:.6g}" if isinstance(value, float) else value for value in astuple(row)] for row in rows
        )


def _read(path: Path) -> list[Row]:
    kinds = {"int": int, "float": float, "str": str}
    with open(path, newline="", encoding="utf-8") as stream:
        return [
            Row(**{field.name: kinds[str(field.type)](record[field.name]) for field in fields(Row)})
            for record in csv.DictReader(stream)
        ]


if __name__ == "__main__":
    sys.exit(main())
