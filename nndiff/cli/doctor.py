"""nndiff_doctor: examine the installation, the devices and the folders, and say what is wrong and what to do.

Run it when something does not work, and put its output into a bug report: it names datasets, but no cases or patients,
and writes home folders as ~.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nndiff.cli.command import Command, answer, as_json
from nndiff.words.problem import Problem

WIDTH, NAMES = 80, 18
GB, COMMAND = 10**9, "$"  # what stands for the name where the text is a command to copy
Lines = Iterator[tuple[str, str]]  # a name, and what is said of it


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_doctor", __doc__ or "", answers="all that is found")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> int:
    from nndiff.resources.doctor import examine
    from nndiff.words.version import VERSION

    given = {root: getattr(arguments, root, None) for root in ("raw", "preprocessed", "results")}
    report: dict[str, Any] = {"doctor": VERSION}
    problems: list[Problem] = []
    for found in examine(given):
        report[found.group] = found.data
        problems += found.problems
        if not as_json(arguments) and found.group in GROUPS:
            title, lines = GROUPS[found.group]
            print(_group(title, lines(found.data)), flush=True)
    answer(arguments, {**report, "findings": [vars(problem) for problem in problems]}, lambda: _findings(problems))
    return 1 if any(problem.stops for problem in problems) else 0


def _group(title: str, lines: Lines) -> str:
    rows = [title]
    for name, text in lines:
        if name == COMMAND:
            rows.append(_command(text, " " * 4))
            continue
        head = f"  {name:<{NAMES - 1}} " if name else " " * (NAMES + 2)
        rows.append(_filled(text, head, " " * (NAMES + 2)))
    return "\n".join([*rows, ""])


def _filled(text: str, head: str, rest: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=head, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


def _command(text: str, pad: str) -> str:
    """Return a command that can be copied: its lines end with a backslash."""
    lines = textwrap.wrap(text, WIDTH - len(pad) - 2, break_on_hyphens=False, break_long_words=False)
    return " \\\n".join(pad + line for line in lines)


def _findings(problems: Sequence[Problem]) -> str:
    rows = ["Findings"]
    for number, problem in enumerate(problems, 1):
        word = "stops work: " if problem.stops else ""
        rows.append(_filled(f"{word}{problem.what}", f"  {number}. ", "     "))
        shown = _command(problem.remedy, " " * 7) if " -m pip " in problem.remedy else ""
        rows.append(f"     remedy:\n{shown}" if shown else _filled(f"remedy: {problem.remedy}", "     ", "       "))
    stopping = sum(problem.stops for problem in problems)
    rows.append(
        f"  {len(problems)} found; {stopping} of them would stop your work" if problems else "  nothing is wrong"
    )
    rows.append("\nThis can go into a bug report: it names no cases or patients. Home is ~.")
    return "\n".join(rows)


# ---------------------------------------------------------------- the groups


def _versions(data: dict[str, str]) -> Lines:
    yield from data.items()


def _libraries(data: dict[str, str]) -> Lines:
    for state in dict.fromkeys(data.values()):
        yield state, ", ".join(name for name, own in data.items() if own == state)


def _processor(data: dict[str, Any]) -> Lines:
    if data:
        yield "CPU", f"{data['model']}; {data['cores']} of {data['cores_of_machine']} cores usable"
        yield "SIMD", " ".join(data["simd"]) or "not known"
        yield "RAM", f"{_gb(data['ram_bytes'])} usable, {_gb(data['free_ram_bytes'])} free"
        if "shared_memory_bytes" in data:
            yield "shared memory", _gb(data["shared_memory_bytes"])


def _cards(data: dict[str, Any]) -> Lines:
    if "build" in data:
        cudnn = f", cuDNN {data['cudnn']}" if data["cudnn"] else ""
        yield "build of torch", f"{data['torch']}, {data['build']}{cudnn}"
    if data.get("driver"):
        yield "driver", str(data["driver"])
    for number, card in enumerate(data.get("gpus", [])):
        free = "free memory not known" if card["free_bytes"] is None else f"{_gb(card['free_bytes'])} free"
        bf16 = "bf16" if card["bf16"] else "no bf16"
        yield f"GPU {number}", f"{card['name']}, {_gb(card['memory_bytes'])}, {free}"
        yield "", f"compute capability {card['compute_capability']}, {bf16}"
    if data.get("apple_gpu"):
        yield "Apple GPU", "usable (mps)"
    unused = data.get("gpus_of_driver", []) if not data.get("gpus") else []
    if unused:
        yield "not usable", ", ".join(unused)
    elif not data.get("gpus") and not data.get("apple_gpu"):
        yield "GPU", "none"


def _self_test(data: list[dict[str, Any]]) -> Lines:
    for row in data:
        name = f"{row['device']}, {row['precision']}".rstrip(", ")
        if "error" in row:
            limits = f"{row['cases']} cases, relative error {row['error']:.2g} (bound {row['bound']:.2g})"
            yield name, f"{row['status']}: {limits}"
        else:
            yield name, f"{row['status']}: {row.get('note', 'it did not end')}"
    if not data:
        yield "", "not run"


def _roots(data: list[dict[str, Any]]) -> Lines:
    for row in data:
        if not row["set_by"]:
            yield row["kind"], f"not set ($nndiff_{row['kind']} or --{row['kind']})"
            continue
        yield row["kind"], f"{row['path']} ({row['set_by']})"
        words = [
            "exists" if row["exists"] else "does not exist yet",
            "writable" if row["writable"] else "not writable",
            f"{_gb(row['free_bytes'])} of {_gb(row['total_bytes'])} free",
            *([row["file_system"]] if row["file_system"] else []),
        ]
        yield "", ", ".join(words)


def _datasets(data: list[dict[str, Any]]) -> Lines:
    for row in data:
        yield row["name"], _stage(row)
        for name, done in row.get("configurations", {}).items():
            otherwise = f", {done['otherwise']} otherwise than planned" if done["otherwise"] else ""
            yield f"  {name}", f"preprocessed {done['preprocessed']} of {row['cases']} cases{otherwise}"
        for run in row["runs"]:
            yield f"  {run['configuration']}", f"fold {run['fold']}: {_run(run)}"
    if not data:
        yield "", "none found"


def _stage(row: dict[str, Any]) -> str:
    words = {"raw": "raw only", "fingerprint": "fingerprint, not planned", "nothing": "results only"}
    counted = [f"{row['task']}, {row['cases']} cases"] if row.get("task") and row.get("cases") is not None else []
    return "; ".join([*counted, words.get(row["stage"], row["stage"])])


def _run(run: dict[str, Any]) -> str:
    if "step" not in run:
        return str(run["state"])
    tuned = "tuned" if run["tuned"] else "not tuned"
    return f"step {run['step']} of {run['of']}, {run['state']}, {tuned}"


def _extras(data: dict[str, Any]) -> Lines:
    for name, row in data.items():
        yield name, f"missing: {', '.join(row['missing'])}; this brings it:" if row["missing"] else "installed"
        if row["command"]:
            yield COMMAND, row["command"]


GROUPS: dict[str, tuple[str, Callable[[Any], Lines]]] = {
    "versions": ("Versions", _versions),
    "libraries": ("Libraries, imported", _libraries),
    "processor": ("Processor and memory", _processor),
    "cards": ("GPUs", _cards),
    "self_test": ("Self-test: 3D convolutions in 16 bits, forward and backward, against 32", _self_test),
    "roots": ("Root folders", _roots),
    "datasets": ("Datasets and trainings", _datasets),
    "extras": ("Extras", _extras),
}


def _gb(count: int) -> str:
    return f"{count / GB:.1f} GB"


if __name__ == "__main__":
    sys.exit(main())
