"""How true the project's predictions are on a GPU: one command, at most eight minutes on one CUDA card.

    python -m benchmarks.gpu [--minutes 8] [--only SECTION …] [-o PAGE.md] [--csv FILE.csv]
    python -m benchmarks.gpu --device cpu --toy        the same at toy sizes on a CPU, in seconds, to test this command

A section is a list of cases (`card`). On a card every section has a process of its own, so that a crash, a hang or an
error that CUDA does not recover from ends only its section. A case that fails is a row with the first line of its
error. A section that does not end in its share of the time leaves rows that say what was not run. The CSV is written
after every row, the page after every section.

Where there is no network, copy this folder and install these wheels of setup.py's install_requires, with their own
dependencies, downloaded elsewhere for the same Python and platform: torch (a CUDA build), numpy, SimpleITK,
batchgenerators, scipy, pandas, tqdm, matplotlib; monai and nnunetv2, too, for the section that compares with them.

    pip download -d wheels torch numpy SimpleITK batchgenerators scipy pandas tqdm matplotlib      with a network
    pip install --no-index --find-links wheels torch numpy SimpleITK …                            without one

Nothing is downloaded while it runs: scans are simulated, and whole bodies are predicted with untrained weights.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import card
from benchmarks.card import Case, Lab, Skipped, freed

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.csv"
PAGE = ROOT / "documentation" / "records" / "gpu.md"
GRACE = 10.0  # seconds after which a section that has not stopped by itself is ended
NUMBERS = {  # column → its head on the page, and its format
    "predicted_mb": ("predicted MB", ".0f"),
    "measured_mb": ("measured MB", ".0f"),
    "reserved_mb": ("reserved MB", ".0f"),
    "error": ("relative error", ".2g"),
    "largest_error": ("largest error", ".2g"),
    "bound": ("bound", ".2g"),
    "seconds": ("s", ".3g"),
    "tflops": ("TFLOP/s", ".3g"),
    "share": ("share of peak", ".2f"),
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
}
COLUMNS = ("section", "case", "status", *NUMBERS, "note")
PATH = re.compile(r"(?:/[\w.+~-]+){2,}")
Row = dict[str, Any]


@dataclass(frozen=True)
class Section:
    title: str
    seconds: float  # of eight minutes
    cases: Callable[[Lab], list[Case]]
    meaning: str


SECTIONS = {
    "card": Section("The card", 10, card.card, "What was measured."),
    "right": Section(
        "Self-test",
        40,
        card.right,
        "bf16 against fp32 on the same numbers, outputs and gradients: the rms of the difference over that of the "
        "values, for the worst tensor (note). Small convolutions are checked against fp64 on the CPU. Each runs with "
        "and without cuDNN's benchmark; the worse one is shown.",
    ),
    "peak": Section(
        "Memory",
        65,
        card.peak,
        "Peak of two steps, predicted by tracing and measured: torch.cuda.max_memory_allocated, and what the allocator "
        f"reserved. A prediction is ok from {card.memory.BELOW:+.0%} to {card.memory.ABOVE:+.0%} of the measured peak, "
        f"or within {card.memory.SMALL_TOLERANCE_BYTES / 1e6:.0f} MB of a small one. Small training cases run with "
        "cuDNN's benchmark, as training does.",
    ),
    "speed": Section(
        "Speed",
        55,
        card.speed,
        "Median seconds of a step with all that belongs to it, and its rate as a share of the fastest of the first "
        "three rows that had been measured by then. Training steps are recorded as a CUDA graph, as training does; "
        "evaluations are not. The note tells how long the GPU computes in a step.",
    ),
    "peers": Section(
        "Beside other networks",
        65,
        card.peers,
        "Equal width and levels, batch 1, each trained as its documentation says, which for nndiff alone is a recorded "
        "step; MONAI's without attention at its levels. Median seconds, and the peak of building and running. The note "
        "tells how long the GPU computes, which a recording cannot shorten. The others need monai and nnunetv2.",
    ),
    "quality": Section(
        "bf16 against fp32",
        145,
        card.quality,
        "The demo's low-count PET, the same number of steps with the same random numbers. Means over held-out cases; "
        "seconds are those of a training step.",
    ),
    "body": Section(
        "A whole body",
        50,
        card.body,
        "The plan for 24 GB with untrained weights, from the source in memory to the estimate in memory.",
    ),
    "resume": Section(
        "Resuming, and going on in less memory",
        50,
        card.resume,
        "Weights after six training steps, beside those of a second training, of one that was saved after three steps "
        "and resumed from the file, and of one whose steps were not recorded as a CUDA graph. Then a "
        "prediction beside a ballast, so that the whole volume does not fit.",
    ),
}


# ---------------------------------------------------------------- rows


def row(section: str, case: str, status: str, **figures: Any) -> Row:
    return dict.fromkeys(COLUMNS, "") | {"section": section, "case": case} | figures | {"status": status}


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return PATH.sub("PATH", f"{type(error).__name__}: {lines[0]}")[:200]


def measured(section: str, case: Case, lab: Lab) -> Row:
    """Return the row of a case, whatever happens."""
    name, measure = case
    try:
        figures = measure()
    except Skipped as reason:
        return row(section, name, f"skipped: {reason}")
    except Exception as error:
        return row(section, name, f"failed: {first_line(error)}")
    finally:
        freed_quietly(lab)
    status = figures.pop("status", "ok")
    return row(section, name, status, **figures)


def freed_quietly(lab: Lab) -> None:
    try:
        freed(lab)
    except Exception as error:  # after an error that CUDA does not recover from
        print(first_line(error), file=sys.stderr)


def rows_of(section: str, lab: Lab) -> Iterator[Row]:
    """Yield a row for every case of a section; no case begins after the section's time."""
    try:
        cases = SECTIONS[section].cases(lab)
    except Exception as error:
        yield row(section, "list of cases", f"failed: {first_line(error)}")
        return
    for case in cases:
        yield measured(section, case, lab) if lab.left() > 0 else row(section, case[0], "not run: out of time")


def isolated(section: str, lab: Lab) -> Iterator[Row]:
    """Yield the rows of a section that a process of its own measures; end the process when its time is long over."""
    try:
        names = [name for name, _ in SECTIONS[section].cases(lab)]
    except Exception as error:
        yield row(section, "list of cases", f"failed: {first_line(error)}")
        return
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", "--device", lab.device, "--section", section]
    command += ["--folder", str(lab.folder), "--seconds", str(max(0.0, lab.left())), *(["--toy"] if lab.toy else [])]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        timer = threading.Timer(max(0.0, lab.left()) + GRACE, killed, [process])
        timer.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.endswith("\n"):
                    found = json.loads(line)
                    names.remove(found["case"])
                    yield found
            code = process.wait()
        finally:
            late = not timer.is_alive()
            timer.cancel()
            killed(process)
        log.seek(0)
        last = (log.read().strip().splitlines() or [""])[-1]
    reason = "ended, because its time was over" if late else f"the process ended with code {code}: {last}"
    for i, name in enumerate(names):
        status = f"failed: {PATH.sub('PATH', reason)[:200]}" if i == 0 else "not run: its section had ended"
        yield row(section, name, status)


def killed(process: subprocess.Popen[str]) -> None:
    """End a process with those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def work(section: str, lab: Lab) -> None:
    """Measure a section in this process, and write its rows to stdout, one line of JSON each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what commands print goes to stderr
    gc.freeze()  # what was imported need not be searched after every case
    for found in rows_of(section, lab):
        print(json.dumps(found), file=answers, flush=True)


def run(sections: Sequence[str], lab: Lab, minutes: float, alone: bool) -> Iterator[Row]:
    """Yield the rows of all sections. Time that a section leaves is there for the next ones."""
    start, scale, share = time.perf_counter(), minutes / 8, 0.0
    given = sum(SECTIONS[name].seconds for name in sections)
    for name in sections:
        share += SECTIONS[name].seconds / given
        until = start + 8 * 60 * scale * share - (GRACE if alone else 0.0) * share
        now = Lab(lab.device, lab.toy, lab.folder, until)
        if now.left() <= 0:
            yield row(name, "all cases", "not run: out of time")
        else:
            yield from isolated(name, now) if alone else rows_of(name, now)


# ---------------------------------------------------------------- the files


def save(path: Path, rows: Iterable[Row]) -> Iterator[Row]:
    """Write the rows as they come, and pass them on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for found in rows:
            writer.writerow(found)
            file.flush()
            yield found


def load(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def page(rows: Sequence[Row], lab: Lab) -> str:
    """Return the page: a summary, and a table for each section with the columns that any of its rows has."""
    kinds = [str(found["status"]).partition(":")[0] for found in rows]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    toy = " **Toy sizes: these figures only show that the command works.**" if lab.toy else ""
    parts = [
        "# Predictions on a GPU",
        f"Measured by `python -m benchmarks.gpu`; `benchmarks/results/gpu.csv` holds the same rows.{toy}",
        f"{len(rows)} rows: {counts}.",
    ]
    for name, section in SECTIONS.items():
        own = [found for found in rows if found["section"] == name]
        if own:
            parts += [f"## {section.title}", section.meaning, _table(own)]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row]) -> str:
    columns = [key for key in NUMBERS if any(found[key] != "" for found in rows)]
    notes = ["note"] if any(found["note"] != "" for found in rows) else []
    head = ["case", *(NUMBERS[key][0] for key in columns), *notes, "status"]
    lines = [head, ["---", *["---:"] * len(columns), *["---"] * (len(notes) + 1)]]
    for found in rows:
        numbers = [format(float(found[key]), NUMBERS[key][1]) if found[key] != "" else "" for key in columns]
        lines.append([found["case"], *numbers, *(str(found[key]) for key in notes), found["status"]])
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--toy", action="store_true", help="toy sizes, to test this command; written into --folder")
    parser.add_argument("--minutes", type=float, default=8.0, help="in all (8)")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("-o", "--output", type=Path, metavar="PAGE.md", help="default: documentation/records/gpu.md")
    parser.add_argument("--csv", type=Path, metavar="FILE.csv", help="default: benchmarks/results/gpu.csv")
    parser.add_argument("--folder", type=Path, help="for simulated scans; default: a temporary folder")
    parser.add_argument("--alone", action="store_true", help="a process for each section on a CPU too")
    parser.add_argument("--section", choices=SECTIONS, help="measure this section in this process and print JSON")
    parser.add_argument("--seconds", type=float, default=0.0, help="of --section")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        lab = Lab(given.device, given.toy, folder, time.perf_counter() + given.seconds)
        if given.section:
            work(given.section, lab)
            return 0
        here = (folder if given.folder else Path.cwd()) if given.toy else None
        text = given.output or (here / "gpu_toy.md" if here else PAGE)
        table = given.csv or (here / "gpu_toy.csv" if here else RESULTS)
        rows: list[Row] = []
        alone = given.alone or given.device == "cuda"
        for found in save(table, run(given.only or list(SECTIONS), lab, given.minutes, alone)):
            rows.append(found)
            print(f"{found['section']:8} {found['case'][:90]:90} {found['status']}", flush=True)
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(page(rows, lab), encoding="utf-8")
    bad = [found for found in rows if str(found["status"]).startswith(("failed", "wrong"))]
    print(f"{len(rows)} rows, {len(bad)} failed or wrong; {text.name} and {table.name} are written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
