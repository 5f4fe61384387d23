"""Predicted against measured peak memory: one row per case, each measured in a fresh process over two real steps.

    python -m benchmarks.memory [--device cuda] [--quick | --only WORD]

A training case runs `memory.teach` with the objective of its stage, then clipping, AdamW and the moving average; a
prediction case runs `memory.evaluate`. The prediction is `training_cost` or `prediction_cost` of the same work.

On a CPU measured = the process's peak resident memory (VmHWM) over what it held after imports and a small warm-up step.
The process's malloc returns every freed block of 64 KiB or more to the system at once: with glibc's default, a
threshold that grows to 32 MiB, the peak would also hold blocks that were freed and kept for later. MKL likewise returns
its packing buffers (it would otherwise keep some 10 MB per thread as long as the process lives; memory.HOST_BYTES
covers that). On CUDA measured = torch.cuda.max_memory_allocated; what the allocator reserved is shown beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nndiff.families import NetworkSpec
from nndiff.families.prdit import PRDiTSpec, token_of
from nndiff.families.unet import UNetSpec
from nndiff.plans.plan import Configuration, Lesson, Stage, Workload
from nndiff.words.scheme import Scheme
from nndiff.words.strict_json import decode, encode
from nndiff.words.volume import Triple

if TYPE_CHECKING:
    from torch import nn

    from nndiff.resources.memory import Cost

RESULTS = Path(__file__).parent / "results" / "memory.csv"
BELOW, ABOVE = -0.05, 0.10  # of the measured peak
SMALL_BYTES, SMALL_TOLERANCE_BYTES = 200 * 10**6, 20 * 10**6
KEEP_NOTHING = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MKL_DISABLE_FAST_MM": "1",
}
FULL, HALF, SLICES, QUARTER = (1, 1, 1), (2, 2, 2), (1, 2, 2), (4, 4, 4)

# What the methods that plan these networks teach, with all weights trained at once.
BRIDGE = Lesson(
    Scheme("bridge", {"gamma": 0.1}), "x0", 1.0, 0.3, (Stage("all", Scheme("gradient", {"weight": 0.3}), 1.0),)
)
PRDIT = Lesson(Scheme("trig", {"noise": 0.5}), "both", 1.0, 0.0, (Stage("all", Scheme("squared", {}), 1.0),))


@dataclass(frozen=True)
class Work:
    """What a fresh process does to be measured: training steps of a lesson's only stage, else evaluations."""

    load: Workload
    lesson: Lesson | None = None


@dataclass(frozen=True)
class Case:
    step: str  # train | predict
    puzzle: Triple
    patch: Triple
    batch: int
    precision: str
    recompute: str
    width: int = 32
    levels: int = 3
    head_width: int = 0
    flat: bool = False  # thick slices: level 0 does not convolve across them, level 1 does not pool them
    block: int = 0  # voxels per axis of the block that a transformer's token answers for; 0: a UNet
    device: str = "cpu"

    @property
    def spec(self) -> NetworkSpec:
        if self.block:
            block = (self.block,) * 3
            return PRDiTSpec(
                in_channels=2,
                out_channels=2,
                answers=2,
                width=self.width,
                token=token_of(block),
                block=block,
                depth=6,
                recompute=self.recompute,
            )
        return UNetSpec(
            in_channels=2,
            out_channels=1,
            width=self.width,
            multipliers=tuple(min(2**level, 8) for level in range(self.levels)),
            kernels=((1, 3, 3) if self.flat else (3, 3, 3), *((3, 3, 3),) * (self.levels - 1)),
            strides=(FULL, (1, 2, 2) if self.flat else (2, 2, 2), *((2, 2, 2),) * (self.levels - 2)),
            blocks=2,
            head_width=self.head_width,
            recompute=self.recompute,
        )

    @property
    def tokens(self) -> int:
        return math.prod(self.patch) // self.block**3 if self.block else 0

    @property
    def work(self) -> Work:
        load = Workload(self.spec, self.puzzle, self.patch, self.batch, self.precision, self.device)
        return Work(load, (PRDIT if self.block else BRIDGE) if self.step == "train" else None)

    def __str__(self) -> str:
        if self.block:
            return (
                f"{self.step:7} tokens {_x(self.patch):>11} / {self.block} B={self.batch} {self.precision} "
                f"{self.recompute:6} width {self.width}"
            )
        flat = " flat" if self.flat else ""
        head = f" head {self.head_width}" if self.head_width else ""
        return (
            f"{self.step:7} r={_x(self.puzzle)} {_x(self.patch):>11} B={self.batch} {self.precision} {self.recompute:6}"
            f" width {self.width} x{self.levels}{head}{flat}"
        )


def _x(triple: Triple) -> str:
    return "x".join(map(str, triple))


CASES = (
    Case("train", FULL, (64, 64, 64), 1, "fp32", "none"),
    Case("train", FULL, (64, 64, 64), 2, "bf16", "none"),
    Case("train", FULL, (64, 64, 64), 2, "bf16", "norms"),
    Case("train", FULL, (64, 64, 64), 2, "bf16", "blocks"),
    Case("train", FULL, (64, 64, 64), 2, "fp32", "norms"),
    Case("train", FULL, (96, 96, 96), 1, "bf16", "norms", head_width=8),
    Case("train", FULL, (24, 128, 128), 2, "bf16", "none", flat=True),
    Case("train", HALF, (64, 64, 64), 1, "fp32", "none"),
    Case("train", HALF, (64, 64, 64), 4, "fp32", "none"),
    Case("train", HALF, (96, 96, 96), 2, "fp32", "none"),
    Case("train", HALF, (96, 96, 96), 2, "bf16", "none"),
    Case("train", HALF, (96, 96, 96), 3, "bf16", "norms", head_width=12),
    Case("train", HALF, (128, 128, 128), 1, "fp32", "blocks", levels=4),
    Case("train", HALF, (128, 128, 128), 1, "bf16", "none", width=48, levels=4, head_width=12),
    Case("train", HALF, (160, 160, 160), 1, "bf16", "norms", levels=4, head_width=8),
    Case("train", HALF, (90, 101, 87), 1, "bf16", "none", levels=3),
    Case("train", SLICES, (32, 128, 128), 2, "bf16", "none", flat=True),
    Case("train", SLICES, (32, 128, 128), 1, "fp32", "norms", flat=True, head_width=8),
    Case("train", QUARTER, (128, 128, 128), 2, "fp32", "none", width=64),
    Case("train", QUARTER, (160, 160, 160), 2, "bf16", "none", width=64),
    Case("predict", FULL, (96, 96, 96), 1, "fp32", "none"),
    Case("predict", FULL, (96, 96, 96), 1, "bf16", "none", head_width=8),
    Case("predict", HALF, (160, 160, 160), 1, "fp32", "none", head_width=12),
    Case("predict", HALF, (160, 160, 160), 1, "bf16", "none", width=64),
    Case("train", QUARTER, (64, 64, 64), 2, "fp32", "none"),
    Case("train", HALF, (32, 40, 40), 4, "bf16", "norms", head_width=12),
    Case("predict", HALF, (64, 64, 64), 1, "fp32", "none"),
    Case("train", FULL, (32, 32, 32), 1, "fp32", "none", width=192, block=4),
    Case("train", FULL, (32, 32, 64), 1, "fp32", "none", width=192, block=4),
    Case("train", FULL, (32, 64, 64), 1, "fp32", "none", width=192, block=4),
    Case("train", FULL, (64, 64, 64), 1, "fp32", "none", width=192, block=4),
    Case("train", FULL, (64, 64, 128), 1, "fp32", "none", width=192, block=4),
    Case("train", FULL, (80, 80, 80), 1, "fp32", "blocks", width=192, block=4),
    Case("predict", FULL, (80, 80, 80), 1, "fp32", "none", width=192, block=4),
)
QUICK = (1, 8, 12, 22)


# ---------------------------------------------------------------- one case, in its own process


def run_steps(work: Work, steps: int = 2) -> None:
    """Run training steps or evaluations, as a training loop or a sampler would."""
    step = step_of(work)
    for _ in range(steps):
        step()


def step_of(work: Work, changed: Callable[[nn.Module], nn.Module] = lambda network: network) -> Callable[[], None]:
    """Return a function that runs one training step or one evaluation; `changed` may compile the network.

    On a GPU, a training step is recorded when it runs first, as training does.
    """
    import torch

    from nndiff.assemble import build_network, build_objective, formulation_of, set_trained
    from nndiff.resources import memory
    from nndiff.resources.recording import recording_on
    from nndiff.training.recorder import Recorder

    load, lesson = work.load, work.lesson
    network = build_network(load.network, load.puzzle_factor).to(load.device)
    batch = memory.Batch.empty(load, load.device)
    for tensor in (batch.x0, batch.condition):
        if tensor is not None:
            tensor.normal_()
    if lesson is None:
        asked = changed(network)

        def evaluate() -> None:
            memory.evaluate(asked, batch, load.precision)

        return evaluate
    (stage,) = lesson.stages
    formulation = formulation_of(lesson)
    objective = build_objective(stage, formulation).to(load.device)
    set_trained(network, stage.trains)
    weights = [w for module in (network, objective) for w in module.parameters() if w.requires_grad]
    optimiser = torch.optim.AdamW(weights, fused=True)
    average = [weight.detach().clone() for weight in weights]
    taught, (t, eps) = changed(network), memory.drawn(batch)
    recorder = Recorder[None](weights, recording_on(torch.device(load.device)))

    def train() -> None:
        optimiser.zero_grad(set_to_none=True)
        recorder.gradients(
            "step", lambda _: [None], lambda _: memory.teach(taught, objective, batch, load.precision, t, eps)
        )
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 0.01)

    return train


def measure(work: Work) -> dict[str, float]:
    """Return peak, reserved bytes and seconds of the work in this process, after a small warm-up step.

    On CUDA `first` is the peak of a first step, in which cuDNN may search for its fastest algorithms.
    """
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    load = work.load
    head = load.network.head_width if isinstance(load.network, UNetSpec) else 0
    small = Case("train", HALF, (16, 16, 16), 2, load.precision, load.network.recompute, 8, 2, head, device=load.device)
    run_steps(small.work, 1)
    start = time.perf_counter()
    if load.device == "cuda":
        before, peaks = torch.cuda.memory_allocated(), []
        for steps in (1, 2):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            run_steps(work, steps)
            torch.cuda.synchronize()
            peaks.append(torch.cuda.max_memory_allocated() - before)
        return _row(peaks[1], torch.cuda.max_memory_reserved(), start) | {"first": peaks[0]}
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    run_steps(work)
    return _row(_status("VmHWM") - before, 0, start)


def _row(peak: int, reserved: int, start: float) -> dict[str, float]:
    return {"measured": peak, "reserved": reserved, "seconds": time.perf_counter() - start}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# ---------------------------------------------------------------- measured from another process


def measured(work: Work) -> dict[str, float]:
    """Return what `measure` returns in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--work", json.dumps(encode(work))]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | KEEP_NOTHING).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def training_peak(configuration: Configuration, device: str) -> float:
    """Return the measured peak of a configuration's training step in bytes: that of the stage that needs the most."""
    load, lesson = configuration.workload(device), configuration.lesson
    works = [Work(load, replace(lesson, stages=(stage,))) for stage in lesson.stages]
    return max(measured(work)["measured"] for work in works)


# ---------------------------------------------------------------- the table


def compare(case: Case) -> dict[str, object]:
    """Return a row of the table."""
    start, work = time.perf_counter(), case.work
    cost = predicted(work)
    traced = time.perf_counter() - start
    found = measured(work)
    error = cost.bytes - found["measured"]
    return {
        "case": str(case),
        "predicted_mb": round(cost.bytes / 1e6, 1),
        "measured_mb": round(found["measured"] / 1e6, 1),
        "reserved_mb": round(found["reserved"] / 1e6, 1),
        "error_mb": round(error / 1e6, 1),
        "error_percent": round(100 * error / found["measured"], 1),
        "trace_s": round(traced, 2),
        "steps_s": round(found["seconds"], 1),
        "verdict": "PASS" if within(cost.bytes, found["measured"]) else "FAIL",
    }


def predicted(work: Work) -> Cost:
    from nndiff.resources.memory import prediction_cost, training_cost

    return prediction_cost(work.load) if work.lesson is None else training_cost(work.load, work.lesson)


def within(predicted: float, measured: float) -> bool:
    """Return whether a prediction is close enough: in bytes for a small case, else as a share of the measured peak."""
    if measured < SMALL_BYTES:
        return abs(predicted - measured) <= SMALL_TOLERANCE_BYTES
    return BELOW <= predicted / measured - 1 <= ABOVE


def table(indices: tuple[int, ...], device: str) -> list[dict[str, object]]:
    """Return the rows of these cases; print each as soon as it is measured."""
    rows = []
    for index in indices:
        row = compare(replace(CASES[index], device=device))
        rows.append(row)
        print(
            f"{row['case']:84} {row['predicted_mb']:>8} {row['measured_mb']:>8} MB {row['error_percent']:>6} %"
            f" {row['error_mb']:>7} MB  {row['steps_s']:>5} s  {row['verdict']}",
            flush=True,
        )
    return rows


def kept(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows of the CSV with those measured now in their places, in the order of the cases."""
    with RESULTS.open(newline="") as file:
        before = {row["case"]: row for row in csv.DictReader(file)}
    now = before | {row["case"]: row for row in rows}
    return [now[str(case)] for case in CASES if str(case) in now]


def exponent(rows: list[dict[str, object]]) -> float:
    """Return the power of the number of tokens with which a training step's peak grows, fitted to its differences."""
    growing = [case for case in CASES if case.tokens and case.step == "train" and case.recompute == "none"]
    peaks = {row["case"]: float(str(row["measured_mb"])) for row in rows}
    tokens = np.array([case.tokens for case in growing])
    steps = np.diff([peaks[str(case)] for case in growing])
    return float(np.polyfit(np.log(tokens[1:]), np.log(steps), 1)[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="four cases; the CSV is not written")
    parser.add_argument("--only", metavar="WORD", help="only cases whose names contain this; the CSV keeps the others")
    parser.add_argument("--work", help="measure this (JSON) in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.work is not None:
        print(json.dumps(measure(decode(Work, json.loads(arguments.work)))))
        return 0
    wanted = tuple(i for i, case in enumerate(CASES) if arguments.only is None or arguments.only in str(case))
    rows = table(QUICK if arguments.quick else wanted, arguments.device)
    if not arguments.quick:
        every = kept(rows) if arguments.only else rows
        print(f"A transformer's peak grows with its tokens to the power of {exponent(every):.3f}")
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(every)
    failed = sum(row["verdict"] == "FAIL" for row in rows)
    print(f"{len(rows) - failed} of {len(rows)} within bounds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
