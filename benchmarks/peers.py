"""nndiff beside other libraries: peak memory, seconds and FLOPs of the same work, measured in one run.

    python -m benchmarks.peers [--quick] [--only WORD] [-o FILE.csv]
    python -m benchmarks.peers --markdown [-o FILE.csv]                    print the tables of a file, measure nothing

`contenders` lists the rows. Every measurement has a process of its own, so that a failure is a row of the table.

    memory     peak resident memory above what the process held after imports and a small warm-up, as in
               `benchmarks.memory`
    seconds    a row and nndiff's row of the same group and precision take turns; the median of the ratios of the turns
               times the median of nndiff's row, so that the load of the machine at a moment does not matter
    FLOPs      convolutions and matrix products of the steps before the first turn, recomputation included
    rate       FLOPs per second as a share of those of the fastest convolution that was found, which takes turns with
               nndiff's row

A process may use the memory that is free when it starts, less a reserve; beyond that it fails with "out of memory".
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from benchmarks.contenders import GROUPS, Contender, Ready, contender_of, silent
from benchmarks.memory import KEEP_NOTHING, _status
from nndiff.words.text_table import text_table

RESULTS = Path(__file__).parent / "results" / "peers.csv"
INSTALL = 'pip install -c constraints.txt -e ".[bench]"'
SIZES = {"networks": (64, 96, 128), "sampling": (64,), "tiles": (64,), "up": (128,), "down": (128,)}
QUICK = SIZES | {"networks": (64,)}
QUICK_TOO = ("networks", 96, "bf16", ("nndiff, as planned", "MONAI DiffusionModelUNet"))
WARM = 32  # voxels per axis of the warm-up
RESERVE_BYTES = 10**9  # left to other programs
LEAST, TURNS = 3, 5  # turns of a row
SECONDS, QUICK_SECONDS, LONG = 40.0, 15.0, 120.0  # in which turns must end: those after LEAST; those after the first
MEASURES = ("train_mb", "train_s", "run_mb", "run_s")
COLUMNS = (
    *("group", "size", "row", "precision", "status", "turns", *MEASURES, *(f"{name}_ratio" for name in MEASURES)),
    *("volume_s", "volume_s_ratio", "evaluations", "error", "train_gflop", "run_gflop", "train_rate", "run_rate"),
    *("weights", "ceiling_gflops", "library", "cpu", "threads", "torch", "commit"),
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    group: str
    size: int
    name: str
    precision: str

    @property
    def contender(self) -> Contender:
        return contender_of(self.group, self.name, self.precision)

    @property
    def base(self) -> Case:
        rows = GROUPS[self.group]
        name = next(row.name for row in rows if row.base and row.precision == self.precision)
        return Case(self.group, self.size, name, self.precision)

    @property
    def key(self) -> tuple[str, ...]:
        return self.group, str(self.size), self.name, self.precision

    def __str__(self) -> str:
        return f"{self.group} {self.size} {self.name} {self.precision}"


def cases(sizes: dict[str, tuple[int, ...]]) -> list[Case]:
    return [
        Case(group, size, row.name, row.precision) for group in sizes for size in sizes[group] for row in GROUPS[group]
    ]


def quick_cases() -> list[Case]:
    group, size, precision, names = QUICK_TOO
    return cases(QUICK) + [Case(group, size, name, precision) for name in names]


# ---------------------------------------------------------------- in a process of its own


def work(job: dict[str, Any]) -> None:
    """Do a job and write its results to stdout, one line of JSON each; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def say(answer: object) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    case = Case(**job["case"])
    if job["does"] == "ceiling":
        ready, gflop = fastest(case.precision)
        say(gflop)
    else:
        warmed(case)
        if job["does"] == "footprint":
            return say(footprint(case))
        ready = built(case)
        say(flops(ready))
    for line in sys.stdin:
        say(timed(getattr(ready, line.strip())))
    return None


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def built(case: Case, size: int | None = None) -> Ready:
    return case.contender.build(size or case.size, case.precision)


def warmed(case: Case) -> None:
    """Run everything once at a small size, so that imports and lazy initialisation are not measured."""
    small = built(case, min(WARM, case.size))
    small.run()
    if small.train is not None:
        small.train()


def footprint(case: Case) -> Row:
    """Return the peak memory of a run and of a training step, and what else is known of the contender."""
    before = _status("VmRSS")

    def peak(action: Callable[[], object]) -> float:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        action()
        return round((_status("VmHWM") - before) / 1e6, 1)

    ready = built(case)
    row: Row = {"run_mb": peak(ready.run)}
    if ready.train is not None:
        row["train_mb"] = peak(ready.train)
    return row | {"weights": ready.weights, "evaluations": ready.evaluations, "error": ready.error()}


def flops(ready: Ready) -> Row:
    """Return the FLOPs of a run and of a training step, which warm up what is timed; to count them takes memory."""

    def convolved(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return conv_flop_count(x, weight, out_shape)

    row: Row = {}
    for action in ("run", "train"):
        if (step := getattr(ready, action)) is not None:
            # nndiff passes some convolutions to oneDNN directly, by an operation that the counter does not know
            known = {torch.ops.aten.mkldnn_convolution: convolved}
            with FlopCounterMode(display=False, custom_mapping=known) as counter:
                step()
            row[f"{action}_gflop"] = round(counter.get_total_flops() / 1e9, 2)
    return row


def fastest(precision: str, edge: int = 40) -> tuple[Ready, float]:
    """Return the convolution of 3³ with the highest rate that was found, and its GFLOP."""
    found = []
    for channels in (32, 64, 128):
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            x = torch.randn(1, channels, edge, edge, edge).to(memory_format=layout)
            weight = torch.randn(channels, channels, 3, 3, 3).to(memory_format=layout)
            gflop = conv_flop_count(x.shape, weight.shape, x.shape) / 1e9
            run = silent(partial(F.conv3d, padding=1), precision, x, weight)
            found.append((gflop / min(timed(run) for _ in range(3)), gflop, run))
    _, gflop, run = max(found, key=lambda row: row[0])
    return Ready(run, train=run), gflop


# ---------------------------------------------------------------- measured from another process


class Failed(Exception):
    """A measurement that did not end well; the message says why."""


class Worker:
    """A process that does a job. Leaving the context ends it."""

    def __init__(self, does: str, case: Case):
        self.greeting: Any = None  # its first answer
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 – closed with the process
        job = {"does": does, "case": asdict(case)}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.peers", "--work", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | (KEEP_NOTHING if does == "footprint" else {}),
            preexec_fn=limited(free_bytes() - RESERVE_BYTES),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def begun(self) -> Worker:
        """Return the worker when it is ready for turns."""
        if self.greeting is None:
            self.greeting = self.answer()
        return self

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.log.seek(0)
        raise Failed(reason(code, self.log.read()))

    def seconds(self, action: str) -> float:
        assert self.process.stdin is not None
        print(action, file=self.process.stdin, flush=True)
        found: float = self.answer()
        return found


def limited(most_bytes: int) -> Callable[[], None]:
    """Return a limit of a process's memory: beyond it an allocation fails, and other programs are left alone."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))

    return limit


def free_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def reason(code: int, log: str) -> str:
    """Return why a process ended, in a few words."""
    if code == -9 or any(word in log for word in ("can't allocate memory", "MemoryError", "bad_alloc")):
        return "out of memory"
    lines = log.strip().splitlines()
    return f"failed: {lines[-1][:200]}" if lines else f"ended with code {code}"


def turns(workers: Sequence[Worker], action: str, seconds: float) -> list[tuple[float, ...]]:
    """Return the seconds of every worker, turn by turn; no turn begins that would probably end too late."""
    start, rows = time.perf_counter(), [tuple(worker.seconds(action) for worker in workers)]
    while len(rows) < TURNS:
        limit = max(seconds, LONG) if len(rows) < LEAST else seconds
        if time.perf_counter() - start + sum(rows[-1]) >= limit:
            break
        rows.append(tuple(worker.seconds(action) for worker in workers))
    return rows


def measured(case: Case, beside: Worker, base: Row | None, seconds: float) -> Row:
    """Return the row of a case that takes turns with the worker `beside`, whose row is `base`.

    If `base` is None, this is the base itself, and takes turns with the fastest convolution.
    """
    row = dict.fromkeys(COLUMNS, "") | case_words(case)
    try:
        with Worker("footprint", case) as worker:
            row |= {key: value for key, value in worker.answer().items() if value is not None}
        with Worker("seconds", case) as own:
            beside.begun()
            row |= own.begun().greeting
            for action in ("run", "train") if row["train_mb"] != "" else ("run",):
                rounds = turns([beside, own], action, seconds)
                ratio = median(times[1] / times[0] for times in rounds)
                row |= {"turns": len(rounds), f"{action}_s": median(times[1] for times in rounds)}
                row[f"{action}_s_ratio"] = 1.0 if base is None else round(ratio, 3)
                if base is None:
                    row["ceiling_gflops"] = round(beside.greeting / min(times[0] for times in rounds), 1)
                    if row[f"{action}_gflop"]:
                        row[f"{action}_rate"] = round(row[f"{action}_gflop"] / beside.greeting / ratio, 3)
    except Failed as failure:
        return row | {"status": str(failure)}
    return derived(row, base)


def case_words(case: Case) -> Row:
    needs = case.contender.needs
    return {
        "group": case.group,
        "size": case.size,
        "row": case.name,
        "precision": case.precision,
        "status": "ok",
        "library": f"{needs} {importlib.metadata.version(needs)}" if needs else "",
    }


def derived(row: Row, base: Row | None) -> Row:
    """Return the row with what follows from its measurements and from those of the row `base`, itself if None.

    The seconds become the ratio times the seconds of the base, as if both rows had been measured at one moment.
    """
    row, base = dict(row), row if base is None else base
    row["ceiling_gflops"] = base["ceiling_gflops"]
    for action in ("train", "run"):
        peak, seconds, gflop, rate = (f"{action}_{name}" for name in ("mb", "s", "gflop", "rate"))
        if row[peak] != "" and base[peak]:
            row[f"{peak}_ratio"] = round(row[peak] / base[peak], 3)
        if row[seconds] != "":
            row[seconds] = float(f"{row[f'{seconds}_ratio'] * base[seconds]:.4g}")
            if row[gflop]:
                row[rate] = round(base[rate] * row[gflop] / base[gflop] / row[f"{seconds}_ratio"], 3)
    if row["group"] == "sampling":
        row["volume_s"] = float(f"{row['evaluations'] * row['run_s']:.4g}")
        row["volume_s_ratio"] = round(row["evaluations"] / base["evaluations"] * row["run_s_ratio"], 3)
    return row


def machine() -> Row:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpu": cpu, "threads": len(os.sched_getaffinity(0)), "torch": torch.__version__, "commit": commit()}


def commit() -> str:
    """Return the commit of the code, with + if the package or the benchmarks were changed since."""
    here = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "nndiff", "benchmarks/*.py")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def missing(names: Iterable[str]) -> list[str]:
    """Return the libraries that are not installed."""
    return [name for name in dict.fromkeys(names) if name and importlib.util.find_spec(name) is None]


def measure(wanted: Sequence[Case], seconds: float) -> Iterator[Row]:
    """Yield the rows of the cases; each row that others are compared with comes before them, and takes turns with them.

    Where it fails, the others cannot be compared and are not measured.
    """
    here = machine()
    for base in dict.fromkeys(case.base for case in wanted):
        with Worker("ceiling", base) as convolution:
            first = measured(base, convolution, None, seconds) | here
        yield first
        others = [case for case in wanted if case.base == base != case]
        if first["status"] != "ok":
            lost = {"status": "not measured, because nndiff's row failed"}
            yield from (dict.fromkeys(COLUMNS, "") | case_words(case) | lost | here for case in others)
        elif others:
            with Worker("seconds", base) as beside:
                yield from (measured(case, beside, first, seconds) | here for case in others)


# ---------------------------------------------------------------- the tables

TITLES = {
    "networks": "One training step and one forward pass, {size}³ voxels",
    "sampling": "One volume of {size}³ voxels",
    "tiles": "Tiles of {size}³ voxels of a volume 2.5 times as large, an overlap of a half, without a network",
    "up": "A volume of {size}³ voxels resampled to 1.5 times its shape",
    "down": "A volume of {size}³ voxels resampled to 0.7 times its shape",
}
NETWORKS = ("", "train MB", "train s", "run MB", "run s", "TFLOP", "rate", "M wts")
SAMPLING = ("", "evaluations", "s a volume", "s each", "MB")
HEADS = {"networks": NETWORKS, "sampling": SAMPLING, "tiles": ("", "tiles", "s", "MB", "error")}
REST = ("", "s", "MB", "error")


def tables(rows: Sequence[Row]) -> Iterator[tuple[str, list[Sequence[str]], list[str]]]:
    """Yield the title, the cells and the remarks of every table; a number stands beside its ratio to nndiff's row."""
    for group, size in dict.fromkeys((row["group"], str(row["size"])) for row in rows):
        found = [row for row in rows if (row["group"], str(row["size"])) == (group, size)]
        remarks = [f"{row['row']} {row['precision']}: {row['status']}" for row in found if row["status"] != "ok"]
        yield TITLES[group].format(size=size), [HEADS.get(group, REST), *map(cells, found)], remarks


def cells(row: Row) -> list[str]:
    name = f"{row['row']} {row['precision']}" if row["group"] == "networks" else str(row["row"])
    if row["group"] == "networks":
        sides = [beside(row, key, 0 if key.endswith("mb") else 2) for key in MEASURES]
        return [name, *sides, number(row["train_gflop"], 2, 1e-3), share(row), number(row["weights"], 1, 1e-6)]
    each, peak = beside(row, "run_s", 3), beside(row, "run_mb", 0)
    if row["group"] == "sampling":
        return [name, str(row["evaluations"] or "-"), beside(row, "volume_s", 1), beside(row, "run_s", 2), peak]
    tiles = [str(row["evaluations"] or "-")] if row["group"] == "tiles" else []
    error = "-" if row["error"] == "" else f"{float(row['error']):.0e}"
    return [name, *tiles, each, peak, error]


def beside(row: Row, key: str, digits: int) -> str:
    """Return a number and its ratio to nndiff's row."""
    ratio = row[f"{key}_ratio"]
    words = "" if ratio == "" else f" x{float(ratio):.{1 if float(ratio) < 9.95 else 0}f}"
    return number(row[key], digits) + words


def number(value: Any, digits: int, unit: float = 1.0) -> str:
    return "-" if value == "" else f"{float(value) * unit:.{digits if float(value) * unit < 100 else 0}f}"


def share(row: Row) -> str:
    return "-" if row["train_rate"] == "" else f"{float(row['train_rate']):.0%}"


def as_text(rows: Sequence[Row]) -> str:
    parts = ["\n".join([title, text_table(body), *remarks]) for title, body, remarks in tables(rows)]
    return "\n\n".join(parts)


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the tables and where they were measured, for the record."""
    parts = [provenance(rows)]
    for title, (heads, *body), remarks in tables(rows):
        lines = [" | ".join(line) for line in (heads, ["---"] * len(heads), *body)]
        parts.append("\n".join([f"**{title}**", "", *(f"| {line} |".replace("|  |", "| |") for line in lines)]))
        parts += [f"- {remark}" for remark in remarks]
    return "\n\n".join(parts)


def provenance(rows: Sequence[Row]) -> str:
    def every(key: str) -> str:
        return ", ".join(dict.fromkeys(str(row[key]) for row in rows if str(row[key])))

    found = sorted((row["precision"], float(row["ceiling_gflops"])) for row in rows if row["ceiling_gflops"] != "")
    rates = ", ".join(f"{precision} {rate:.0f}" for precision, rate in reversed(dict(found).items()))
    words = (
        f"{every('cpu')}, {every('threads')} thread(s); torch {every('torch')}; {every('library')}; nndiff at commit "
        f"{every('commit')}. The fastest convolution in GFLOP/s: {rates}."
    )
    return textwrap.fill(words, 120)


# ---------------------------------------------------------------- the file


def load(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def save(rows: Sequence[Row], path: Path) -> None:
    """Write the rows, in the order of the cases; rows of the file that were not measured now are kept."""
    known = [*cases(SIZES), *quick_cases(), *(Case(r["group"], r["size"], r["row"], r["precision"]) for r in rows)]
    now = {key_of(row): row for row in [*load(path), *rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(now[key] for key in dict.fromkeys(case.key for case in known) if key in now)


def key_of(row: Row) -> tuple[str, ...]:
    return row["group"], str(row["size"]), row["row"], row["precision"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="64³ and one pair at 96³, about ten minutes on one core")
    parser.add_argument(
        "--only", metavar="WORD", default="", help="only rows whose names contain this, and nndiff's beside"
    )
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, metavar="FILE.csv")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the file; measure nothing")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.work is not None:
        work(json.loads(arguments.work))
        return 0
    if arguments.markdown:
        print(as_markdown(load(arguments.output)))
        return 0
    wanted = [c for c in (quick_cases() if arguments.quick else cases(SIZES)) if arguments.only in str(c)]
    absent = missing(case.contender.needs for case in wanted)
    for name in absent:
        print(f"{name} is not installed, so its rows are left out. To install it: {INSTALL}")
    wanted = [case for case in wanted if case.contender.needs not in absent]
    rows: list[Row] = []
    for row in measure(wanted, QUICK_SECONDS if arguments.quick else SECONDS):
        rows.append(row)
        print(" ".join([str(row["size"]), *cells(row), row["status"].replace("ok", "")]).strip(), flush=True)
        save(rows, arguments.output)  # after every row, so that an interrupted run keeps what it has measured
    print(f"\n{as_text(rows)}" if rows else "No rows.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
