"""nndiff_find_best_configuration: compare trained configurations on held-out cases, and say which one to use."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence

from nndiff.cli.command import Command, add_configurations, add_workers, answer, paths_of
from nndiff.cli.train import add_device
from nndiff.words import best
from nndiff.words.best import Averages, Best, Row
from nndiff.words.telling import counted
from nndiff.words.text_table import text_table

WIDTH = 80
LONGEST = 12  # characters of a name or of a list of folds in the table
SHOWN = 5  # cases that are named for a reason to leave them out
FIGURES = ("PSNR", "SSIM", "MAE", "texture")


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_find_best_configuration", __doc__ or "", answers="the contents of best.json")
    command.parser.add_argument("dataset", metavar="DATASET", help="dataset number or name")
    add_configurations(command, "all that are trained")
    command.flag(
        "folds",
        short="f",
        nargs="+",
        default=None,
        metavar="FOLD",
        help="folds to compare (default: all that are trained)",
    )
    add_device(command)
    add_workers(command)
    command.flag("disable_progress_bar", action="store_true", help="show no progress bar of the translations")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    import nndiff

    paths = paths_of(arguments)
    found = nndiff.find_best_configuration(
        arguments.dataset,
        arguments.configurations,
        arguments.folds,
        device=arguments.device,
        workers=arguments.np,
        quiet=arguments.disable_progress_bar,
        raw=paths.raw,
        results=paths.results,
    )
    name = paths.dataset_name(arguments.dataset)
    answer(arguments, found, lambda: table(found))
    print(f"\nWrote {paths.results / name / best.FILE}")
    print(f"Next: nndiff_predict -i IN -o OUT -d {name[7:10]} -c {best.NAME}")


def table(found: Best) -> str:
    """Return the figures, the differences, what was left out and the advice, at most 80 columns wide."""
    patients = len(set(found.cases.values()))
    shared = f"{counted(len(found.cases), 'case')} of {counted(patients, 'patient')}"
    parts = [f"On {shared} that each configuration held out:", _figures(found)]
    parts += ["  s/volume: median of one fold; GB: planned memory of a prediction", "", _differences(found)]
    if len(found.rows) > 1 and patients == 1:
        parts.append(_wrapped("There is no interval, because all cases are of one patient."))
    if any(len(row.folds) > 1 or row.folds[0].cases != len(found.cases) for row in found.rows):
        parts += ["", "Mean over the folds, each on all cases that it held out:", _over_folds(found)]
    if len(found.devices) > 1:
        parts += ["", _wrapped(f"Seconds cannot be compared: measured on {' and '.join(found.devices)}.")]
    parts += ["", *_left_out(found.left_out)]
    return "\n".join([*parts, _wrapped(found.advice)])


def _figures(found: Best) -> str:
    rows = [["", "folds", "cases", *FIGURES, "s/volume", "GB"]]
    for row in found.rows:
        cost = f"{row.seconds:.3g}", f"{row.prediction_bytes / 1e9:.3g}"
        rows.append([_short(row.configuration), _folds(row), str(len(found.cases)), *_cells(row.figures), *cost])
    return text_table(rows)


def _differences(found: Best) -> str:
    rows = [["", "score", "difference", "95 % interval"]]
    for row in found.rows:
        is_best = row.configuration == found.configuration
        interval = "" if row.interval is None else "{:+.2f} to {:+.2f}".format(*row.interval)
        difference = "best" if is_best else f"{row.difference:+.2f}"
        rows.append([_short(row.configuration), f"{row.figures.score:.2f}", difference, interval])
    return text_table(rows)


def _over_folds(found: Best) -> str:
    rows = [["", "folds", "cases", *FIGURES, "score"]]
    for row in found.rows:
        cases = str(sum(fold.cases for fold in row.folds))
        score = f"{row.over_folds.score:.2f}"
        rows.append([_short(row.configuration), _folds(row), cases, *_cells(row.over_folds), score])
    return text_table(rows)


def _cells(figures: Averages) -> list[str]:
    texture = "" if figures.texture_db is None else f"{figures.texture_db:.2f}"
    return [f"{figures.psnr:.2f}", f"{figures.ssim:.4f}", f"{figures.mae:.4g}", texture]


def _left_out(reasons: dict[str, str]) -> list[str]:
    """Return a paragraph per reason, with the first of its cases."""
    groups: dict[str, list[str]] = {}
    for case, reason in reasons.items():
        groups.setdefault(reason, []).append(case)
    lines = []
    for reason, cases in groups.items():
        named = ", ".join(cases[:SHOWN]) + (", …" if len(cases) > SHOWN else "")
        lines.append(_wrapped(f"Left out: {counted(len(cases), 'case')} ({named}): {reason}."))
    return [*lines, ""] if lines else []


def _folds(row: Row) -> str:
    """Return the folds, three or more numbers in a row as 0-4."""
    folds = [fold.fold for fold in row.folds]
    numbers = [int(fold) for fold in folds if fold.isdecimal()]
    if len(numbers) == len(folds) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{folds[0]}-{folds[-1]}"
    return _short(" ".join(folds))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=True, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
