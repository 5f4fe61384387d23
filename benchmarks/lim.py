"""Starting late and recomputing little, against a thousand steps: one model, one run, all beside each other.

    python -m benchmarks.lim [-o FOLDER] [--time_budget 25m] [--raw RAW/DATASET] [--quick]

A conditional DDPM (eps-prediction, linear beta, T = 1000) and a bridge are trained for the same time on the demo's
low-count PET (or on a raw dataset of your own), then every sampler translates the same held-out volumes. Figures are
means over cases, in network units; seconds are medians of a volume's wall time; TFLOPs are counted by tracing. A
thousand steps, and what else takes that long, are measured on two cases, and every figure is also given on those two.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch

from nndiff import checkpoint
from nndiff.checkpoint import BEST
from nndiff.cli import plan_and_preprocess
from nndiff.cli.train import seconds_of
from nndiff.demo.cases import simulate
from nndiff.files import atomic, write_json
from nndiff.imaging import store
from nndiff.memory import prediction_cost, reuse_cost
from nndiff.metrics.pet import best_gaussian
from nndiff.plan import Plan, ReusePlan, SamplerPlan, load
from nndiff.scoring import Figures, bounds_of, compare
from nndiff.training.folds import FILE as SPLITS
from nndiff.training.run import Request, train
from nndiff.translate import build_model
from nndiff.tuning.measure import Bench, Measured

RESULTS = Path(__file__).parent / "results" / "lim.csv"
HEADS = ("sampler", "cases", "PSNR", "SSIM", "MAE", "HF", "TFLOPs", "seconds", "speed-up", "PSNR of 2", "SSIM of 2")
TRAINING = 16
REFERENCE = "1000 steps"
ALL = SamplerPlan("noise", 1000, 1000, 1.0, 1)


def samplers(ts: int, quick: bool) -> Iterator[tuple[str, SamplerPlan]]:
    late = SamplerPlan("shortcut", ts, ts, 1.0, 1)
    yield REFERENCE, replace(ALL, start_step=1000)
    if not quick:
        yield "DDPM-100", replace(ALL, steps=100)
        yield "DDIM-250", replace(ALL, steps=250, eta=0.0)
    yield f"shortcut {ts}", late
    for interval in (3,) if quick else (3, 5, 10, 25):
        if interval < ts:
            yield f"shortcut {ts}, N = {interval}", replace(late, reuse=ReusePlan(interval))
    yield f"shortcut {ts}, N = 3, depth 2", replace(late, reuse=ReusePlan(3, 2))
    for other in (1, 5, 10, 25, 50, 100, 250):
        if other != ts:
            yield f"shortcut {other}", replace(late, start_step=other, steps=other)
    yield f"one step from {ts}", replace(late, steps=1)
    yield f"draft {ts}", replace(late, start="draft")
    yield f"shortcut {ts}, mean of 4", replace(late, samples=4)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("lim"), metavar="FOLDER")
    parser.add_argument("--time_budget", type=seconds_of, default=1500.0, metavar="TIME", help="of each training (25m)")
    parser.add_argument("--raw", type=Path, default=None, metavar="RAW/DATASET", help="instead of simulated scans")
    parser.add_argument("--held_out", type=int, default=4, metavar="N", help="volumes to measure on (4)")
    parser.add_argument("-c", nargs="+", default=["ddpm", "bridge"], metavar="NAME", help="what is trained (both)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change the plan, as in nndiff_plan")
    parser.add_argument("--quick", action="store_true", help="fewer samplers")
    arguments = parser.parse_args(argv)
    raw = arguments.raw or _simulated(arguments.output, arguments.held_out)
    number, plans = raw.name[7:10], arguments.output / "preprocessed"
    by_hand = ["--set", *arguments.set] if arguments.set else []
    roots = ["--raw", str(raw.parent), "--preprocessed", str(plans)]
    if plan_and_preprocess.main(["-d", number, "-c", *arguments.c, *by_hand, *roots]):
        return 1
    prepared = plans / raw.name
    _split(prepared, arguments.c[0], arguments.held_out)
    plan = load(Plan, prepared / "plan.json", "")
    rows = []
    for name in arguments.c:
        bench, cases, minutes = _trained(arguments, plan, name, prepared)
        if name == "ddpm":
            rows += [_plain(bench, cases, kind) for kind in ("input", "best Gaussian")]
            ts = plan.configurations[name].start_step
            for label, sampler in samplers(ts, arguments.quick):
                rows.append(_row(label, bench, bench.measure(sampler, cases[:2] if sampler.steps > 250 else cases)))
                print(_line(rows[-1]), flush=True)
        else:
            planned = plan.configurations[name].sampler
            rows.append(_row(f"bridge, 1 step ({minutes:.0f} min)", bench, bench.measure(planned, cases)))
            print(_line(rows[-1]), flush=True)
    _finish(rows, arguments.output)
    return 0


def _simulated(folder: Path, held_out: int) -> Path:
    raw = folder / "raw" / "Dataset900_DemoPET"
    return raw if raw.is_dir() else simulate(folder / "raw", TRAINING + held_out, 0, 0.1, 0)[0]


def _split(prepared: Path, name: str, held_out: int) -> None:
    """The last few cases are held out, in every fold there is."""
    names = store.cases(prepared / name)
    write_json(prepared / SPLITS, [{"train": names[:-held_out], "val": names[-held_out:]}])


def _trained(
    arguments: argparse.Namespace, plan: Plan, name: str, prepared: Path
) -> tuple[Bench, tuple[str, ...], float]:
    folder = arguments.output / "results" / plan.dataset
    request = Request(plan, name, "0", prepared, folder, torch.device("cpu"), (), time_budget=arguments.time_budget)
    if torch.cuda.is_available():
        request = replace(request, device=torch.device("cuda"))
    if not (request.folder / BEST).exists():
        train(request)
    found = checkpoint.load(request.folder / BEST)
    model = build_model(plan, name, [found.ema], request.device)
    cases = tuple(store.cases(prepared / name)[-arguments.held_out :])
    return Bench(model, plan, prepared / name), cases, sum(epoch.seconds for epoch in found.history) / 60


# ---------------------------------------------------------------- rows


def _row(label: str, bench: Bench, measured: Measured) -> list[object]:
    cases = list(measured.figures)
    work = _tflops(bench, measured.sampler, cases[0])
    return _cells(label, measured.figures, work, measured.cost)


def _plain(bench: Bench, cases: Sequence[str], kind: str) -> list[object]:
    """What needs no network; the filter's width is the best for each volume, with the truth at hand."""
    figures = {}
    spacing = bench.model.configuration.spacing
    for case in cases:
        arrays = store.open_case(bench.folder, case)
        source, target = np.array(arrays["source"]), np.array(arrays["target"])
        shown = source[list(bench.plan.anchor)]
        bounds = [bounds_of(channel, t) for channel, t in zip(bench.plan.target_channels, target, strict=True)]
        if kind != "input":
            pairs = zip(shown, target, bounds, strict=True)
            shown = np.stack([best_gaussian(channel, truth, spacing, limits)[0] for channel, truth, limits in pairs])
        figures[case] = compare(shown, target, bounds, None, texture=True)
    return _cells(kind, figures, 0.0, 0.0)


def _cells(label: str, figures: dict[str, Figures], work: float, seconds: float) -> list[object]:
    cases = list(figures)
    return [label, len(cases), *_means(figures, cases), work, seconds, "", *_means(figures, cases[:2])[:2]]


def _means(figures: dict[str, Figures], cases: Sequence[str]) -> list[float]:
    chosen = [figures[case] for case in cases]
    return [fmean(getattr(f, name) for f in chosen) for name in ("psnr", "ssim", "mae", "hf")]


def _tflops(bench: Bench, sampler: SamplerPlan, case: str) -> float:
    planned, device = bench.model.configuration, bench.model.device.type
    shape = store.open_case(bench.folder, case)["target"].shape[1:]
    words = planned.network, planned.puzzle_factor, shape, planned.precision
    full = prediction_cost(*words, device).flops
    reuse = sampler.reuse
    count = len(reuse.listed) or -(-sampler.steps // reuse.interval)
    shallow = reuse_cost(*words, reuse.depth, device)[0].flops
    draft = 1 if sampler.start == "draft" else 0
    return sampler.samples * ((count + draft) * full + (sampler.steps - count) * shallow) / 1e12


def _line(row: list[object]) -> str:
    return "  ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row)


def _finish(rows: list[list[object]], folder: Path) -> None:
    reference = next(float(str(row[7])) for row in rows if row[0] == REFERENCE)
    for row in rows:
        seconds = float(str(row[7]))
        row[8] = reference / seconds if seconds else ""
    with atomic(folder / "lim.csv") as part, open(part, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([HEADS, *rows])
    print("\n| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
    for row in rows:
        print("| " + " | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row) + " |")
    print(f"\nWrote {folder / 'lim.csv'}; the committed figures: {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
