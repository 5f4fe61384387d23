"""How memory and work grow with size: the power p of  cost(n) = c0 + c1·n^p,  above the fixed cost c0.

    python -m benchmarks.growth [--only SECTION …] [-o FILE.csv]       about eight minutes on one core

    p = log[(c(q·q·n) - c(q·n)) / (c(q·n) - c(n))] / log q             c0 cancels; q is the step between two sizes

Three consecutive sizes give one p. Traced and counted costs are exact: their p is that of the largest three sizes, and
those of smaller ones stand beside it. Measured costs are noisy: their p is that of the least squares of the relative
errors over all sizes, with c0 ≥ 0. Seconds are medians of processor time, which other programs change least; for steps
the sizes take turns. Each prediction of a folder has a process of its own, which predicts one case before it is
measured.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy.optimize import minimize_scalar, nnls

from benchmarks import card, contenders
from benchmarks.memory import FULL, HALF, KEEP_NOTHING, PRDIT, Work, _status, predicted, step_of
from benchmarks.trials import NAME
from nndiff import checkpoint
from nndiff.assemble import build_network
from nndiff.checkpoint import Checkpoint, Run, Seen
from nndiff.families.family import Channels, NetworkSpec
from nndiff.families.prdit import VARIANTS, PRDiTSpec, TokenRung, count
from nndiff.imaging.tiles import Tiling
from nndiff.networks.puzzle import Puzzled
from nndiff.plans.plan import Workload
from nndiff.prediction.record import Record
from nndiff.resources.memory import volume_bytes
from nndiff.words.volume import Triple

RESULTS = Path(__file__).parent / "results" / "growth.csv"
EDGES = (32, 64, 128, 256, 512)  # voxels
PATCH = 128  # voxels per axis of the patch whose batch grows, and of the tiles
BATCHES = FOLDS = DRAWS = (1, 2, 4, 8)
CASES, RECORDED = (2, 4, 8, 16), (125, 250, 500, 1000)
TURNS, ROUNDS = 9, 3  # of steps; of processes that predict, each of which does so as often
CONSTANT = 0.5  # growth from the first size to the last, eight times as large or more, below which a cost has no p
BLOCK = 8  # voxels per axis of a transformer's token; published


@dataclass(frozen=True)
class Curve:
    what: str
    against: str
    design: str
    how: str  # traced | counted | measured
    sizes: Sequence[int]  # each the same multiple of the one before
    costs: Sequence[float]
    unit: str
    note: str = ""

    @property
    def powers(self) -> list[float]:
        """Return the power of every three consecutive sizes; none where the cost does not grow throughout."""
        steps = np.diff(self.costs)
        if (steps <= 0).any():
            return []
        return [math.log(b / a) / math.log(self.sizes[1] / self.sizes[0]) for a, b in pairwise(steps)]

    @property
    def power(self) -> float | None:
        """Return p; None if the cost grows by less than half from the first size to the last."""
        if self.costs[-1] < (1 + CONSTANT) * self.costs[0]:
            return None
        return fitted(self.sizes, self.costs) if self.how == "measured" else self.powers[-1]

    @property
    def row(self) -> dict[str, str]:
        own = {name: str(getattr(self, name)) for name in ("what", "against", "design", "how", "unit", "note")}
        power = "" if self.power is None else f"{self.power:.3f}"
        lists = {"sizes": self.sizes, "costs": [f"{c:.5g}" for c in self.costs]}
        every = " ".join(f"{p:.3f}" for p in self.powers)
        return own | {"power": power, "powers": every} | {name: " ".join(map(str, v)) for name, v in lists.items()}


def fitted(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Return the p of c0 + c1·n^p, c0 ≥ 0, with the least squares of the errors relative to the costs."""
    n, c = np.array(sizes, dtype=float), np.array(costs)

    def residual(p: float) -> float:
        return float(nnls(np.stack([1 / c, (n / n[-1]) ** p / c], axis=1), np.ones_like(c))[1])

    return float(minimize_scalar(residual, bounds=(0.2, 4), method="bounded").x)


# ---------------------------------------------------------------- traced


def cubes(edges: Sequence[int]) -> list[Triple]:
    return [(n, n, n) for n in edges]


def traced(
    works: Sequence[Work], sizes: Sequence[int], against: str, design: str, flops: bool = True
) -> Iterator[Curve]:
    """Yield the growth of memory, and that of FLOPs if wanted: they are those of any device."""
    what = "an evaluation" if works[0].lesson is None else "a training step"
    costs = [predicted(work) for work in works]
    yield Curve(f"memory of {what}", against, design, "traced", sizes, [c.bytes / 1e6 for c in costs], "MB")
    if flops:
        yield Curve(f"FLOPs of {what}", against, design, "traced", sizes, [c.flops / 1e9 for c in costs], "GFLOP")


def against_voxels(edges: Sequence[int] = EDGES) -> Iterator[Curve]:
    shapes = cubes(edges)
    for puzzle in (HALF, FULL):
        for again in ("none", "norms", "blocks", ""):  # the last is an evaluation
            for precision in ("bf16", "fp32"):
                for device in ("cpu", "cuda"):
                    spec = contenders.bridge_spec(edges[-1], puzzle, again or "none")
                    works = [
                        Work(Workload(spec, puzzle, shape, 1, precision, device), contenders.BRIDGE if again else None)
                        for shape in shapes
                    ]
                    design = " ".join(word for word in (f"r = {puzzle[0]}", again, precision, device) if word)
                    yield from traced(works, [math.prod(s) for s in shapes], "voxels", design, device == "cpu")


def against_batch(edge: int = PATCH, batches: Sequence[int] = BATCHES) -> Iterator[Curve]:
    for puzzle in (HALF, FULL):
        for precision in ("bf16", "fp32"):
            load = Workload(contenders.bridge_spec(edge, puzzle), puzzle, (edge,) * 3, 1, precision, "cpu")
            works = [Work(replace(load, batch_size=batch), contenders.BRIDGE) for batch in batches]
            yield from traced(works, batches, "batch", f"r = {puzzle[0]} none {precision}, {edge}³")


def transformer(shape: Triple, again: str, width: int, depth: int) -> NetworkSpec:
    rung = TokenRung(FULL, shape, (1.0,) * 3, 1, width, again, depth=depth, block=(BLOCK,) * 3)
    return PRDiTSpec.on(rung, Channels(inputs=2, outputs=2, answers=2, anchors=(0,)))


def against_tokens(edges: Sequence[int] = (64, 128, 256)) -> Iterator[Curve]:
    shapes = [shape for n, m in pairwise(edges) for shape in ((n, n, n), (n, n, m), (n, m, m))]
    shapes.append((edges[-1],) * 3)
    tokens = [count(shape, (BLOCK,) * 3) for shape in shapes]
    width, depth = VARIANTS["cuda"][0]  # as published
    for again in ("none", "blocks"):
        works = [
            Work(Workload(transformer(shape, again, width, depth), FULL, shape, 1, "bf16", "cuda"), PRDIT)
            for shape in shapes
        ]
        memory, flops = traced(works, tokens, "tokens", f"prdit, width {width}, depth {depth}, {again}, bf16")
        yield memory
        shares = ", ".join(f"{share:.0%} at {n}" for n, share in quadratic_shares(flops))
        yield replace(flops, note=f"attention: {shares} tokens")


def quadratic_shares(curve: Curve) -> list[tuple[int, float]]:
    """Return (n, share of b·n²) in costs c0 + a·n + b·n²; the sizes double, and the first two have no share."""
    rows = zip(curve.sizes[2:], curve.costs, curve.costs[1:], curve.costs[2:], strict=False)
    return [(n, 16 / 6 * (third - second - 2 * (second - first)) / third) for n, first, second, third in rows]


def of_volumes(edges: Sequence[int] = EDGES, tile: int = PATCH) -> Iterator[Curve]:
    """Yield the memory of a whole volume beside the network, and the number of tiles that overlap by half."""
    spec = contenders.bridge_spec(edges[-1])
    shapes = cubes(edges)
    voxels = [math.prod(shape) for shape in shapes]
    loads = [Workload(spec, HALF, shape, 1, "bf16", "cpu") for shape in shapes]
    arrays = [volume_bytes(spec, shape) for shape in shapes]
    of_tile = predicted(Work(replace(loads[0], patch_size=(tile,) * 3))).bytes
    one = [predicted(Work(load)).bytes + volume for load, volume in zip(loads, arrays, strict=True)]
    what = "memory of a predicted volume"
    yield Curve(what, "voxels", "r = 2 bf16, one tile", "traced", voxels, [b / 1e6 for b in one], "MB")
    tiled = [(of_tile + volume) / 1e6 for volume in arrays]
    yield Curve(what, "voxels", f"r = 2 bf16, tiles of {tile}³", "traced", voxels, tiled, "MB")
    lengths = [2**k for k in range(len(edges))]  # in tiles
    counts = [len(Tiling((tile * n,) * 3, (tile,) * 3, contenders.OVERLAP)) for n in lengths]
    cubed = [n**3 for n in lengths]
    yield Curve("evaluations of tiles", "volume", "overlap of half a tile", "counted", cubed, counts, "tiles")


# ---------------------------------------------------------------- measured


def in_seconds() -> Iterator[Curve]:
    """Yield the growth of the seconds of a step; all sizes take turns.

    A training step has a batch of 2, because PyTorch unfolds small single volumes of fp32 on a CPU (lean.ONEDNN_FLOOR).
    """
    shapes = [(16, 16, 16), (16, 16, 32), (16, 32, 32), (32, 32, 32), (32, 32, 64), (32, 64, 64)]
    voxels = [math.prod(shape) for shape in shapes]
    spec = contenders.bridge_spec(16)
    for what, lesson, batch in (("a training step", contenders.BRIDGE, 2), ("an evaluation", None, 1)):
        works = [Work(Workload(spec, HALF, shape, batch, "fp32", "cpu"), lesson) for shape in shapes]
        seconds = in_turns([step_of(work) for work in works])
        yield Curve(f"seconds of {what}", "voxels", f"r = 2, fp32, batch {batch}", "measured", voxels, seconds, "s")


def in_turns(actions: Sequence[Callable[[], object]], turns: int = TURNS, warm: int = 1) -> list[float]:
    """Return the median processor seconds of every action; the first turns warm up."""
    rows = []
    for _ in range(warm + turns):
        row = []
        for action in actions:
            start = time.process_time()
            action()
            row.append(time.process_time() - start)
        rows.append(row)
    return [median(column) for column in zip(*rows[warm:], strict=True)]


@dataclass(frozen=True)
class Job:
    """A prediction of a folder in a process of its own."""

    folder: str
    cases: int = 1
    draws: int = 1
    folds: int = 1
    steps: int = 1

    def run(self) -> dict[str, float]:
        """Predict one case, then all; return memory above that (median of peaks), seconds and evaluations."""
        import nndiff

        folder, asked = Path(self.folder), [0]

        def called(module: torch.nn.Module, *_: object) -> None:
            asked[0] += isinstance(module, Puzzled)

        torch.nn.modules.module.register_module_forward_hook(called)

        def predict(cases: int) -> None:
            nndiff.predict(
                *(folder / f"{cases}_cases", folder / f"out_{os.getpid()}", folder / "model"),
                folds=[str(fold) for fold in range(self.folds)],
                device="cpu",
                quiet=True,
                samples=self.draws,
                steps=self.steps,
            )

        predict(1)
        asked[0], before = 0, _status("VmRSS")
        peaks, seconds = [], []
        for _ in range(ROUNDS):
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
            seconds += in_turns([lambda: predict(self.cases)], 1, warm=0)
            peaks.append((_status("VmHWM") - before) / 1e6)
        shutil.rmtree(folder / f"out_{os.getpid()}")
        return {"MB": median(peaks), "s": median(seconds), "evaluations": asked[0] / ROUNDS}

    def measured(self) -> dict[str, float]:
        """Return what `run` returns in a fresh process."""
        command = [sys.executable, "-m", "benchmarks.growth", "--job", json.dumps(vars(self))]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | KEEP_NOTHING)
        found: dict[str, float] = json.loads(output.stdout.splitlines()[-1])
        return found


def of_predictions(against: str, sizes: Sequence[int]) -> Iterator[Curve]:
    """Yield the growth of memory, seconds and evaluations of a prediction; medians of rounds of all sizes."""
    steps = 2 if against == "draws" else 1  # draws of one step are equal
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        jobs = [replace(Job(name, steps=steps), **{against: n}) for n in sizes]
        rounds = [[job.measured() for job in jobs] for _ in range(ROUNDS)]
    for unit, what in (("MB", "memory"), ("s", "seconds"), ("evaluations", "evaluations")):
        costs = [median(row[unit] for row in column) for column in zip(*rounds, strict=True)]
        how = "counted" if unit == "evaluations" else "measured"
        yield Curve(f"{what} of a prediction", against, "toy network, 40 x 64 x 64", how, sizes, costs, unit)


def of_records() -> Iterator[Curve]:
    with tempfile.TemporaryDirectory() as name:
        seconds = [recorded(Path(name), n) for n in RECORDED]
    yield Curve("seconds of writing predict.json", "cases", "", "measured", RECORDED, seconds, "s")


def make(folder: Path) -> None:
    """Write an untrained model of eight folds, and folders of copies of a simulated scan."""
    with contextlib.redirect_stdout(sys.stderr):
        data = card.data_of(card.Lab("cpu", True, folder))
    planned = data.plan.configurations[NAME]
    seen = tuple(Seen(channel.name, (0.0, math.inf), (0.0, 0.0)) for channel in data.plan.source_channels)
    for fold in range(max(FOLDS)):
        weights = build_network(planned.network, planned.puzzle_factor).state_dict()
        run = Run(str(fold), 0, data.training, data.held, True, 2, 1, 1, 1, 1)
        saved = Checkpoint(data.plan, NAME, run, seen, 1, weights, weights, {})
        checkpoint.save(folder / "model" / f"fold_{fold}" / checkpoint.BEST, saved)
    scan = next((folder / "raw" / data.plan.dataset / "imagesTr").iterdir())
    for cases in (1, *CASES):
        (folder / f"{cases}_cases").mkdir()
        for case in range(cases):
            shutil.copy(scan, folder / f"{cases}_cases" / f"case{case}_0000.nii.gz")


def recorded(folder: Path, cases: int) -> float:
    """Return the processor seconds in which the record of a prediction is written after every case."""
    row = {"outputs": ["case0000_0000.nii.gz"], "warnings": [], "shape": [40, 64, 64], "tiles": 1, "tile": [40, 64, 64]}
    record = Record(folder / "predict.json", {"cases": {}})
    start = time.process_time()
    for case in range(cases):
        record.finish(f"case{case:04d}", row | {"seconds": {"read": 0.123, "compute": 0.123, "write": 0.123}})
    return time.process_time() - start


# ---------------------------------------------------------------- the table


SECTIONS: dict[str, Callable[[], Iterator[Curve]]] = {
    "voxels": against_voxels,
    "batch": against_batch,
    "tokens": against_tokens,
    "volumes": of_volumes,
    "seconds": in_seconds,
    "cases": partial(of_predictions, "cases", CASES),
    "draws": partial(of_predictions, "draws", DRAWS),
    "folds": partial(of_predictions, "folds", FOLDS),
    "records": of_records,
}


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """Return the table of the record."""
    heads = ("what", "against", "of", "how", "from", "to", "p", "p of smaller sizes", "")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        sizes, costs, powers = (row[name].split() for name in ("sizes", "costs", "powers"))
        ends = [f"{costs[i]} {row['unit']} at {sizes[i]}" for i in (0, -1)]
        smaller = ", ".join(powers[:-1]) if row["how"] != "measured" else ""
        cells = (
            row["what"],
            row["against"],
            row["design"],
            row["how"],
            *ends,
            row["power"] or "–",
            smaller,
            row["note"],
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, metavar="FILE.csv")
    parser.add_argument("--job", help="predict this (JSON) in this process and print JSON")
    arguments = parser.parse_args(argv)
    if arguments.job is not None:
        print(json.dumps(Job(**json.loads(arguments.job)).run()))
        return 0
    known: dict[str, list[dict[str, str]]] = {name: [] for name in SECTIONS}
    if arguments.output.exists():
        with arguments.output.open(newline="") as file:
            for row in csv.DictReader(file):
                known[row["section"]].append(row)
    for name in arguments.only:
        known[name] = []
        for curve in SECTIONS[name]():
            known[name].append({"section": name} | curve.row)
            print(markdown(known[name][-1:]).splitlines()[-1], flush=True)
    rows = [row for section in known.values() for row in section]
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
