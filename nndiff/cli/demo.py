"""nndiff_demo: simulate PET scans, then plan, train, predict and evaluate on them, and show a table and a picture.

First a small model that comes with nndiff translates one body. Then everything is done from nothing, by the same
commands as for real scans; each is printed before it runs. See documentation/getting-started.md.

Both datasets are always simulated; `--only_pet` trains on the first one only.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nndiff.cli.command import Command, add_workers
from nndiff.cli.times import seconds_of
from nndiff.cli.train import add_device
from nndiff.words.errors import NndiffError

TITLES = {900: "Low-count PET to full-count PET", 901: "Uncorrected low-count PET to corrected full-count PET"}
# Ends of the dial: the mean, and a draw. The few minutes for the second dataset are too short for draws without grain.
ENDS = {900: ("fidelity", "texture"), 901: ("fidelity",)}
SHARE = {900: 0.7, 901: 0.3}  # of the time budget


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_demo", __doc__ or "")
    command.flag(
        "output",
        short="o",
        type=Path,
        default=Path("demo"),
        metavar="FOLDER",
        help="folder for all files (default: demo)",
    )
    command.flag("training", type=_one_or_more, default=16, metavar="N", help="number of training cases (default: 16)")
    command.flag("held_out", type=_one_or_more, default=4, metavar="N", help="number of held-out cases (default: 4)")
    command.flag(
        "dose",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the counts in the low-count scan (default: 0.1)",
    )
    command.flag("seed", type=int, default=0, metavar="N", help="random seed of the simulated bodies (default: 0)")
    command.flag(
        "time_budget",
        type=seconds_of,
        default=420.0,
        metavar="TIME",
        help="time for both trainings together (default: 7m)",
    )
    command.flag("only_first", action="store_true", help="stop after the first look at a model that comes with nndiff")
    command.flag("only_data", action="store_true", help="simulate the scans only")
    command.flag("only_pet", action="store_true", help="train on the first dataset only (low-count to full-count PET)")
    add_device(command)
    add_workers(command)
    return command.run(_work, argv)


def _one_or_more(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more; found {text}")
    return int(text)


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.demo import showcase

    clock = time.perf_counter()
    if not arguments.only_data:
        _first_look(arguments, clock)
    if arguments.only_first:
        return
    _simulate(arguments)
    if arguments.only_data:
        return
    numbers = [900] if arguments.only_pet else list(TITLES)
    whole = sum(SHARE[number] for number in numbers)
    tables: dict[str, dict[str, Any]] = {}
    for number in numbers:
        _train_and_measure(arguments, number, arguments.time_budget * SHARE[number] / whole)
        tables[TITLES[number]] = _show(arguments, number)
        figures = showcase.save(arguments.output, tables)
    print("\nThe width of the best Gaussian filter was chosen with knowledge of the truth.")
    print(f"All figures: {figures}")
    print(f"Total time: {(time.perf_counter() - clock) / 60:.1f} minutes.")


def _first_look(arguments: argparse.Namespace, clock: float) -> None:
    """Translate one body with the model that comes with nndiff, and show it."""
    from nndiff.cli import evaluate, predict
    from nndiff.demo import showcase
    from nndiff.demo.cases import simulate_one

    folder = arguments.output / "first"
    print("A first look: a small model that comes with nndiff translates a body that it has not seen.", flush=True)
    raw, _ = simulate_one(folder / "raw", arguments.seed)
    device = ["-device", arguments.device] if arguments.device else []
    out = folder / "fidelity"
    model = Path(__file__).parents[1] / "demo" / "model.zip"
    _call("nndiff_predict", predict.main, "-i", raw / "imagesTs", "-o", out, "-m", model, *device)
    against = ["-i", raw / "imagesTs", "-r", raw / "regionsTs", "-o", out, "-np", 0]
    _call("nndiff_evaluate", evaluate.main, raw / "targetsTs", out, *against)
    picture = folder / "first.png"
    showcase.draw(showcase.Shown(raw, {"nndiff": out}), picture, "Low-count PET to full-count PET")
    print(f"\nPicture: {picture}, {time.perf_counter() - clock:.0f} s after the start")
    if not arguments.only_first:
        print("Now the same from nothing: simulate scans, plan, train, predict, measure.\n", flush=True)


def _simulate(arguments: argparse.Namespace) -> None:
    from nndiff.demo.cases import simulate

    raw = arguments.output / "raw"
    if all(_raw(arguments, number).joinpath("dataset.json").exists() for number in TITLES):
        print(f"The scans exist already in {raw}")
        return
    for folder in simulate(raw, arguments.training, arguments.held_out, [arguments.dose], arguments.seed, arguments.np):
        print(f"Wrote {folder}")


def _train_and_measure(arguments: argparse.Namespace, number: int, seconds: float) -> None:
    from nndiff.cli import evaluate, plan_and_preprocess, predict, train

    roots = ["--raw", arguments.output / "raw", "--preprocessed", arguments.output / "preprocessed"]
    results = ["--results", arguments.output / "results"]
    device = ["-device", arguments.device] if arguments.device else []
    workers = [] if arguments.np is None else ["-np", arguments.np]
    raw = _raw(arguments, number)
    _call("nndiff_plan_and_preprocess", plan_and_preprocess.main, "-d", number, "-c", "bridge", *workers, *roots)
    begun = (_fold(arguments, number) / "checkpoint_latest.pt").exists()
    budget = ["--c"] if begun else ["--time_budget", f"{seconds:.0f}s"]
    _call("nndiff_train", train.main, number, "bridge", 0, "--no_tune", *budget, *device, *workers, *roots, *results)
    for end in ENDS[number]:
        out = _predictions(arguments, number, end)
        where = ["-i", raw / "imagesTs", "-o", out, "-m", _fold(arguments, number)]
        _call("nndiff_predict", predict.main, *where, "--objective", end, *device)
        against = ["-i", raw / "imagesTs", "-r", raw / "regionsTs", "-o", out]
        _call("nndiff_evaluate", evaluate.main, raw / "targetsTs", out, *against, *workers)


def _show(arguments: argparse.Namespace, number: int) -> dict[str, Any]:
    """Print the table of a dataset, draw its picture, and return its figures."""
    from nndiff.demo import showcase

    predictions = {f"nndiff, {end}": _predictions(arguments, number, end) for end in ENDS[number]}
    shown = showcase.Shown(_raw(arguments, number), predictions)
    rows, ceiling = showcase.figures(shown), showcase.ceiling(shown)
    picture = arguments.output / f"{_raw(arguments, number).name}.png"
    showcase.draw(shown, picture, TITLES[number])
    print(f"\n{TITLES[number]}, mean over the held-out bodies\n\n{showcase.table(rows, ceiling)}\n")
    print(f"Picture: {picture}\nTraining curves: {_fold(arguments, number) / 'progress.png'}", flush=True)
    return {**rows, "no noise at all": {"PSNR": ceiling}}


def _call(name: str, run: Callable[[Sequence[str]], int], *words: object) -> None:
    """Print a command as a user would type it, then run it."""
    line = [str(word) for word in words]
    print(f"\n$ {name} {shlex.join(line)}\n", flush=True)
    if code := run(line):
        raise NndiffError(
            f"{name} ended with exit code {code}.",
            remedy="see its error message above, and run the demo again, which goes on from here. On a slow or busy "
            "machine give it a longer --time_budget",
        )


def _raw(arguments: argparse.Namespace, number: int) -> Path:
    names = {900: "Dataset900_DemoPET", 901: "Dataset901_DemoNAC"}
    return Path(arguments.output) / "raw" / names[number]


def _fold(arguments: argparse.Namespace, number: int) -> Path:
    return Path(arguments.output) / "results" / _raw(arguments, number).name / "bridge" / "fold_0"


def _predictions(arguments: argparse.Namespace, number: int, end: str) -> Path:
    return Path(arguments.output) / "predictions" / f"{_raw(arguments, number).name}_{end}"


if __name__ == "__main__":
    sys.exit(main())
