"""Late starts and feature reuse against sampling in 1000 steps: one model, one run, all samplers side by side.

    python -m benchmarks.lim [-o FOLDER] [--time_budget 5m] [--raw RAW/DATASET] [--doses 0.25 0.1 0.05 0.02]

A conditional DDPM (linear beta, T = 1000, with the planned prediction) and a bridge are trained for the same time on
the demo's low-count PET, or on a raw dataset of your own; then every sampler translates the same held-out volumes.
Figures are means over cases, in network units; seconds are the median wall time per volume; TFLOPs are counted by
tracing. Samplers of 250 steps or more are measured on two cases and samplers of 100 steps or more on four; PSNR2 and
SSIM2 are those of the two cases that every row includes.

With several doses one model is trained on scans of all doses, and each dose has a table of its own.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.trials import PLAIN, Data, baseline, device, figures_of, in_steps, pair, prepared, simulated
from nndiff import checkpoint
from nndiff.checkpoint import LATEST
from nndiff.cli.times import seconds_of
from nndiff.diffusion.process import DDPM, noise_matched_step
from nndiff.imaging import store
from nndiff.methods.common import NOISE_MULTIPLE
from nndiff.resources.memory import prediction_cost
from nndiff.sampling.scoring import Figures, mean_of
from nndiff.sampling.translate import build_model
from nndiff.training.folds import FILE as SPLITS
from nndiff.training.request import Request
from nndiff.training.run import train
from nndiff.tuning.measure import Bench, Measured
from nndiff.tuning.search import OBJECTIVES
from nndiff.walk.caches import Deep
from nndiff.walk.layers import Tiles
from nndiff.walk.part import STEPS
from nndiff.walk.rules import First
from nndiff.walk.sampler import SamplerPlan
from nndiff.walk.starts import Draft, Noise, Shortcut
from nndiff.walk.times import Suited
from nndiff.words.files import atomic, write_json

HEADS = (
    *("sampler", "cases", "PSNR", "SSIM", "MAE", "HF", "body", "air", "texture dB", "score"),
    *("TFLOPs", "seconds", "faster", "PSNR2", "SSIM2"),
)
PLANNED = (6, 12, 24)  # steps of the planned walk, by the ratio of noise to signal, beside the published uniform steps
FEWER = {250: 2, 100: 4}  # steps of a sampler from which on it is measured on so many cases
TS = (1, 5, 10, 25, 50, 100, 250)
ALL = SamplerPlan(start=Noise(), times=Suited(STEPS, STEPS), rule=First(1.0))
HUNDRED = in_steps(ALL, 100)


@dataclass(frozen=True)
class Row:
    label: str
    cases: int
    figures: Figures  # means
    two: Figures  # of the first two cases
    tflops: float = 0.0
    seconds: float = 0.0

    @property
    def score(self) -> float:
        return self.figures.score(OBJECTIVES["balanced"])

    def cells(self, reference: float) -> list[str]:
        f, took = self.figures, self.seconds
        numbers = [f"{f.psnr:.2f}", f"{f.ssim:.3f}", f"{f.mae:.4f}", f"{f.hf:.2f}"]
        numbers += [f"{f.hf_body:.2f}", f"{f.hf_air:.2f}", f"{f.texture_db:.2f}", f"{self.score:.1f}"]
        work = [f"{self.tflops:.3g}", f"{took:.3g}", f"{reference / took:.1f}x"] if took else ["", "", ""]
        return [self.label, str(self.cases), *numbers, *work, f"{self.two.psnr:.2f}", f"{self.two.ssim:.3f}"]


def samplers(ts: int) -> Iterator[tuple[str, SamplerPlan]]:
    """Yield the samplers of the full table; all others are compared with the first."""
    yield "1000 steps", ALL
    yield "DDPM-100", HUNDRED
    yield "DDIM-250", replace(in_steps(ALL, 250), rule=First(0.0))
    yield from _starts(ts)
    yield from _paces(ts)
    for start in sorted({ts, 25, 10}):
        for interval in (3, 5, 10, 25):
            if interval < start and (interval == 3 or start == ts):
                yield f"shortcut {start}, N = {interval}", _late(start).with_part(Deep(interval))
    yield f"shortcut {ts}, N = 3, depth 2", _late(ts).with_part(Deep(3, 2))
    yield "draft 25", replace(_late(25), start=Draft())
    yield "shortcut 25, mean of 4", replace(_late(25), samples=4)


def few_samplers(ts: int) -> Iterator[tuple[str, SamplerPlan]]:
    """Yield the samplers of the short table."""
    yield "DDPM-100", HUNDRED
    yield from _starts(ts, most=50)
    yield from _paces(ts)
    yield f"shortcut {ts}, N = 3", _late(ts).with_part(Deep(3))


def planned_samplers(planned: SamplerPlan) -> Iterator[tuple[str, SamplerPlan]]:
    """Yield the planned walk in several numbers of steps, and with feature reuse in the planned number."""
    first = planned.times.first
    for steps in PLANNED:
        yield f"planned {first} in {steps}", in_steps(planned.with_part(Deep()), steps)
    yield f"planned {first} in {planned.steps}, N = 3", planned.with_part(Deep(3))


def _starts(ts: int, most: int = STEPS) -> Iterator[tuple[str, SamplerPlan]]:
    """Yield every late start, first with every step down to 0, then with one step."""
    starts = sorted({ts, *(start for start in TS if start <= most)})
    for start in starts:
        yield f"shortcut {start}", _late(start)
    for start in starts:
        yield f"one step from {start}", in_steps(_late(start), 1)


def _paces(ts: int) -> Iterator[tuple[str, SamplerPlan]]:
    """Yield the matched start in fewer steps than every one, with and without feature reuse."""
    for steps in (5, 10, 25):
        if steps < ts:
            fewer = in_steps(_late(ts), steps)
            yield f"shortcut {ts} in {steps}", fewer
            yield f"shortcut {ts} in {steps}, N = 3", fewer.with_part(Deep(3))


def _late(ts: int) -> SamplerPlan:
    return SamplerPlan(start=Shortcut(), times=Suited(ts, ts), rule=First(1.0))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("lim"), metavar="FOLDER")
    parser.add_argument("--time_budget", type=seconds_of, default=300.0, metavar="TIME", help="per training (5m)")
    parser.add_argument("--raw", type=Path, default=None, metavar="RAW/DATASET", help="instead of simulated scans")
    parser.add_argument(
        "--doses",
        nargs="+",
        type=float,
        default=[0.1],
        metavar="SHARE",
        help="of the counts (0.1)",
    )
    parser.add_argument("--held_out", type=int, default=8, metavar="N", help="volumes to measure on (8)")
    parser.add_argument("--no_bridge", action="store_true", help="train the DDPM alone")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="change the plan, as in nndiff_plan")
    parser.add_argument("--few", action="store_true", help="against 100 steps instead of 1000, fewer samplers")
    arguments = parser.parse_args(argv)
    arguments.few |= len(arguments.doses) > 1
    configurations = ["ddpm"] if arguments.no_bridge else ["ddpm", "bridge"]
    raw = arguments.raw or simulated(arguments.output, arguments.held_out, arguments.doses)[0]
    data = prepared(raw, arguments.output, arguments.held_out, configurations, arguments.set)
    write_json(data.prepared / SPLITS, [{"train": list(data.training), "val": list(data.held)}])
    benches = {name: _trained(arguments, data, name) for name in configurations}
    tables = {}
    for i, dose in enumerate(arguments.doses):
        cases = (
            data.held if arguments.raw else [name for name in data.held if int(name[4:]) % len(arguments.doses) == i]
        )
        title = raw.name if arguments.raw else f"{dose:.0%} of the counts"
        print(f"\n## {title}: {', '.join(cases)}", flush=True)
        tables[title] = _table(benches, cases, arguments.few)
    _save(tables, arguments.output / "lim.csv")
    return 0


def _trained(arguments: argparse.Namespace, data: Data, name: str) -> Bench:
    plan, folder = data.plan, arguments.output / "results" / data.plan.dataset
    request = Request(plan, name, "0", data.prepared, folder, device(), (), time_budget=arguments.time_budget)
    if not (request.folder / LATEST).exists():
        train(request)
    found = checkpoint.load(request.folder / LATEST)  # the best one was chosen on the cases that are measured here
    minutes = sum(epoch.seconds for epoch in found.history) / 60
    print(f"{name}: {found.step} steps, {minutes:.0f} minutes of training", flush=True)
    return Bench(build_model(plan, name, [found.ema], device()), plan, data.prepared / name)


# ---------------------------------------------------------------- a table


def _table(benches: dict[str, Bench], cases: Sequence[str], few: bool) -> list[list[str]]:
    rows = []

    def add(row: Row) -> None:
        rows.append(row)
        print(" | ".join(row.cells(next((r.seconds for r in rows if r.seconds), 1.0))), flush=True)

    bench = benches["ddpm"]
    for kind in PLAIN:
        add(_mean(kind, {case: _plain(bench, case, kind) for case in cases}))
    distance = fmean(_distance(bench, case) for case in cases)
    matched = noise_matched_step(distance)
    tiles = bench.model.configuration.sampler.part(Tiles)
    published = (few_samplers if few else samplers)(matched)
    for label, plain in [*published, *planned_samplers(bench.model.configuration.sampler)]:
        sampler = plain.with_part(tiles)
        add(_row(label, bench, bench.measure(sampler, cases[: _count(sampler)])))
        if label == "1000 steps" and bench.plan.configurations["ddpm"].budget.bf16:
            other = _other(bench)
            name = f"{label}, {other.model.configuration.precision}"
            add(_row(name, other, other.measure(sampler, cases[:2])))
    if "bridge" in benches:
        for steps in (1, 4):
            planned = in_steps(benches["bridge"].model.configuration.sampler, steps)
            measured = benches["bridge"].measure(planned, cases)
            add(_row(f"bridge, {steps} step{'s' * (steps > 1)}", benches["bridge"], measured))
    for word in ("shortcut", "one step from"):
        best = max((r for r in rows if r.label in {f"{word} {ts}" for ts in (*TS, matched)}), key=lambda r: r.score)
        ts = int(best.label.split()[-1])
        print(
            f"best {word}: {ts}, whose noise is {DDPM().ratio(ts / STEPS) / distance:.1f} times the distance of "
            f"{distance:.4f}; at {NOISE_MULTIPLE:g} times it would be {matched}"
        )
    reference = next(row.seconds for row in rows if row.seconds)
    return [row.cells(reference) for row in rows]


def _count(sampler: SamplerPlan) -> int | None:
    return next((count for steps, count in FEWER.items() if sampler.steps >= steps), None)


def _other(bench: Bench) -> Bench:
    configuration = bench.model.configuration
    precision = "bf16" if configuration.precision == "fp32" else "fp32"
    return replace(bench, model=replace(bench.model, configuration=replace(configuration, precision=precision)))


def _row(label: str, bench: Bench, measured: Measured) -> Row:
    cases, planned = list(measured.figures), bench.model.configuration
    shape = store.open_case(bench.folder, cases[0])["target"].shape[1:]
    whole = replace(planned.workload(bench.model.device.type), patch_size=shape)
    flops = bench.work(measured.sampler) * prediction_cost(whole).flops
    return _mean(label, measured.figures, flops / 1e12, measured.cost)


def _plain(bench: Bench, case: str, kind: str) -> Figures:
    target = pair(bench.plan, bench.folder, case)[1]
    return figures_of(bench.plan, baseline(bench.plan, "ddpm", bench.folder, case, kind), target)


def _distance(bench: Bench, case: str) -> float:
    source, target = pair(bench.plan, bench.folder, case)
    return float(np.sqrt(np.mean((source - target) ** 2)))


def _mean(label: str, figures: dict[str, Figures], tflops: float = 0.0, seconds: float = 0.0) -> Row:
    every = list(figures.values())
    whole, two = (
        Figures(*(mean_of([getattr(f, field.name) for f in some]) for field in fields(Figures)))
        for some in (every, every[:2])
    )
    return Row(label, len(every), whole, two, tflops, seconds)


def _save(tables: dict[str, list[list[str]]], path: Path) -> None:
    with atomic(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("table", *HEADS))
        for title, rows in tables.items():
            writer.writerows([title, *row] for row in rows)
    for title, rows in tables.items():
        print(f"\n{title}\n\n| " + " | ".join(HEADS) + " |\n|" + "---|" * len(HEADS))
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    print(f"\nWrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
