"""nndiff_evaluate_generation: measure the distance between generated volumes and held-out scans.

Reads generated volumes and preprocessed cases; writes `generation.json`. See
documentation/reference/metrics.md#generated-volumes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiff.cli.command import Command, answer, paths_of
from nndiff.cli.train import add_fold
from nndiff.words.errors import NndiffError
from nndiff.words.text_table import text_table

if TYPE_CHECKING:
    from nndiff.evaluation.generation import Compared, Judged

HEADS = ("", "FID", "95 %", "MMD", "MMD² unbiased", "sliced W2", "to training", "closer")


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_evaluate_generation", __doc__ or "", answers="the measures of each channel")
    add_fold(command)
    command.parser.add_argument("generated", type=Path, metavar="GENERATED", help="folder of the generated volumes")
    command.flag("output", short="o", type=Path, required=True, metavar="FOLDER", help="folder for generation.json")
    command.flag(
        "n",
        type=int,
        default=None,
        metavar="N",
        help="maximum number of volumes per set (default: all of the smaller set)",
    )
    command.flag(
        "features",
        default="random",
        metavar="NAME",
        help="extractor: random, medicalnet or an installed one (default: random)",
    )
    command.flag("dimensions", type=int, default=16, metavar="N", help="number of random features (default: 16)")
    command.flag("weights", type=Path, default=None, metavar="FILE", help="path of MedicalNet's resnet_50.pth")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.evaluation.generation import FILE, judge
    from nndiff.metrics.features import EXTRACTORS
    from nndiff.plans.plan import load_plan
    from nndiff.training.folds import groups_of, split_of

    if (arguments.features == "medicalnet") != (arguments.weights is not None):
        raise NndiffError(
            "--weights is needed for --features medicalnet, and only for it.",
            expected="--features medicalnet --weights resnet_50.pth",
            remedy="download the weights from github.com/Tencent/MedicalNet, or pass --features random alone",
        )
    options: dict[str, Any] = {"dimensions": arguments.dimensions} if arguments.features == "random" else {}
    options |= {"weights": arguments.weights} if arguments.features == "medicalnet" else {}
    paths = paths_of(arguments)
    dataset = paths.dataset_name(arguments.dataset)
    prepared = paths.preprocessed / dataset
    plan = load_plan(prepared / "plan.json", f"plan it first: nndiff_plan_and_preprocess -d {arguments.dataset}")
    plan.demand_configuration(arguments.configuration)
    folder = prepared / arguments.configuration
    split = split_of(arguments.fold, prepared, groups_of(folder))
    held_out = [] if set(split.val) & set(split.train) else split.val
    blocks = judge(
        plan,
        arguments.configuration,
        folder,
        split.train,
        held_out,
        arguments.generated,
        arguments.output,
        EXTRACTORS.make(arguments.features, options),
        arguments.n,
    )
    for block in blocks:
        answer(arguments, block, partial(table, block))
    print(f"\nAll measures: {arguments.output / FILE}")


def table(block: Judged) -> str:
    first = block.rows[0].figures
    words = f"{block.channel}: {first.n} volumes per set, features {first.features}, compared with held-out scans"
    notes = [f"  {first.note}"] if first.note else []
    figures = text_table([HEADS, *(_row(compared) for compared in block.rows)])
    return "\n".join([words, figures, *notes, *_memory(block.rows[0])])


def _row(compared: Compared) -> list[str]:
    figures, (low, high), near = compared.figures, compared.fid_interval, compared.memorised
    numbers = (figures.mmd, figures.mmd_unbiased, figures.sliced_wasserstein)
    memory = f"{near.ratio:.2f}", f"{near.closer:.0%}"
    return [compared.name, f"{figures.fid:.4g}", f"{low:.3g} to {high:.3g}", *(f"{x:.4g}" for x in numbers), *memory]


def _memory(compared: Compared) -> list[str]:
    if not compared.memorised.ratio < 0.5:
        return []
    return [
        "  MEMORISED? Generated volumes are much closer to training scans than training scans are to each other. "
        "Compare each generated volume with its nearest training scan."
    ]


if __name__ == "__main__":
    sys.exit(main())
