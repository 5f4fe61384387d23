"""nndiff_evaluate: compare predictions with the truth, and if given also their input and its best Gaussian filter.

Reads predictions, the truth, and what else is given; writes `metrics.csv` and `summary.json`. All figures are defined
in documentation/reference/metrics.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiff.cli.command import Command, add_crew, answer, crew
from nndiff.words.kind import KINDS, SYNTHRAD_RANGES
from nndiff.words.telling import counted
from nndiff.words.text_table import text_table

if TYPE_CHECKING:
    from nndiff.evaluation import Evaluation


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_evaluate", __doc__ or "", answers="the summary")
    command.parser.add_argument(
        "truth", type=Path, metavar="GT", help="folder of the true volumes, CASE_0000.nii.gz, …"
    )
    command.parser.add_argument(
        "prediction", type=Path, metavar="PRED", help="folder of the predictions, with the same file names"
    )
    for name, short, holds in (
        ("input", "i", "folder of the inputs, to measure and to filter where they have the truth's units"),
        ("masks", "m", "folder of masks, CASE.nii.gz: measure where they are above 0.5"),
        ("regions", "r", "folder of label maps, CASE.nii.gz, to compare SUVmean and SUVmax"),
    ):
        command.flag(name, short=short, type=Path, default=argparse.SUPPRESS, metavar="FOLDER", help=holds)
    command.flag(
        "output",
        short="o",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for the results; may be that of the predictions",
    )
    command.flag(
        "kind",
        choices=(*KINDS, "auto"),
        default="auto",
        help="modality (default: auto, from the dataset.json above GT, predict.json in PRED or the values)",
    )
    editions = tuple(SYNTHRAD_RANGES)
    command.flag(
        "edition", choices=editions, default="2025", help="SynthRAD edition whose range is used for CT (default: 2025)"
    )
    command.flag("input_channel", type=int, default=0, metavar="N", help="channel of the input to compare (default: 0)")
    command.flag(
        "puzzle_factor",
        type=int,
        nargs=3,
        default=argparse.SUPPRESS,
        metavar=("Z", "Y", "X"),
        help="puzzle factor whose grid is measured (default: predict.json or 2 2 2)",
    )
    add_crew(command)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.evaluation import evaluate

    evaluation = evaluate(
        arguments.truth,
        arguments.prediction,
        arguments.output,
        getattr(arguments, "input", None),
        getattr(arguments, "masks", None),
        getattr(arguments, "regions", None),
        input_channel=arguments.input_channel,
        kinds=arguments.kind,
        edition=arguments.edition,
        puzzle_factor=getattr(arguments, "puzzle_factor", None),
        workers=crew(arguments),
    )
    answer(arguments, evaluation.summary, lambda: table(evaluation))
    evaluation.demand_success()


def table(evaluation: Evaluation) -> str:
    """Return one block per channel with one line per method: mean ± std, and the case with the lowest PSNR."""
    summary = evaluation.summary
    parts = []
    for channel, kinds in summary["settings"]["kinds"].items():
        methods = {method: channels[channel] for method, channels in summary["metrics"].items()}
        parts += [
            f"Channel {channel}, {_kinds(kinds)}, {counted(summary['cases'], 'case')}, range {_bounds(summary, kinds)}"
        ]
        parts += [text_table(_rows(methods)), *_oracle(methods), *_apart(summary, channel), ""]
    return "\n".join(
        [*parts, f"All cases: {evaluation.folder / 'metrics.csv'}; summary: {evaluation.folder / 'summary.json'}"]
    )


def _rows(methods: dict[str, dict[str, Any]]) -> list[list[str]]:
    from nndiff.metrics.table import METRICS

    shown = [metric for metric in METRICS.values() if metric.heading]
    columns = [metric for metric in shown if any(metric.name in figures for figures in methods.values())]
    rows = [["", *(metric.heading for metric in columns), "worst PSNR"]]
    for method, figures in methods.items():
        psnr = figures["PSNR"]
        worst = f"{_number(psnr['worst'])} ({psnr['worst_case']})"
        rows.append([method, *(_spread(figures.get(metric.name), metric.percent) for metric in columns), worst])
    return rows


def _oracle(methods: dict[str, dict[str, Any]]) -> list[str]:
    found = [figures["FWHM_mm"] for figures in methods.values() if "FWHM_mm" in figures]
    return [
        f"  best Gaussian: {_spread(figure)} mm wide, a width chosen with knowledge of the truth" for figure in found
    ]


def _apart(summary: dict[str, Any], channel: str) -> list[str]:
    reason = summary["settings"]["input_not_compared"].get(channel)
    return [] if reason is None else [f"  The input and its best Gaussian are not compared: {reason}."]


def _spread(figure: dict[str, Any] | None, percent: bool = False) -> str:
    if figure is None:
        return ""
    mean, std = (_number(figure[word], percent) for word in ("mean", "std"))
    return mean if figure["std"] is None else f"{mean} ± {std.lstrip('+')}"


def _number(value: float | None, percent: bool = False) -> str:
    """Return a value as text; None is an infinite PSNR, because JSON has no infinity."""
    if value is None:
        return "inf"
    return f"{value:+.1%}" if percent else f"{value:.4g}"


def _kinds(kinds: Sequence[str]) -> str:
    return kinds[0] if len(kinds) == 1 else f"{' and '.join(kinds)} (the cases differ; pass --kind to choose one)"


def _bounds(summary: dict[str, Any], kinds: Sequence[str]) -> str:
    bounds: dict[str, str] = summary["settings"]["bounds"]
    return "; ".join(rule for names, rule in bounds.items() if set(kinds) & set(names.split(", ")))


if __name__ == "__main__":
    sys.exit(main())
