"""nndiff_evaluate_generation: measure the distance between generated volumes and held-out scans."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiff.cli.command import Command, paths_of
from nndiff.cli.train import add_fold
from nndiff.words.errors import NndiffError
from nndiff.words.text_table import text_table

if TYPE_CHECKING:
    from nndiff.evaluation.generation import Compared, Judged

HEADS = ("", "FID", "95 %", "MMD", "MMD² unbiased", "sliced W2", "to training", "closer")


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_evaluate_generation", __doc__ or "")
    add_fold(command)
    command.parser.add_argument("generated", type=Path, metavar="GENERATED", help="folder of the generated volumes")
    command.flag("output", short="o", type=Path, required=True, metavar="FOLDER", help="where generation.json goes")
    command.flag("n", type=int, default=None, metavar="N", help="volumes a side at most; unset: all, as many on both")
    command.flag("features", default="random", metavar="NAME", help="random, medicalnet, or an installed one (random)")
    command.flag("dimensions", type=int, default=16, metavar="N", help="of the random features (16)")
    command.flag("weights", type=Path, default=None, metavar="FILE", help="MedicalNet's resnet_50.pth")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.evaluation.generation import FILE, judge
    from nndiff.metrics.features import EXTRACTORS
    from nndiff.plans.plan import load_plan
    from nndiff.training.folds import groups_of, split_of

    if (arguments.features == "medicalnet") != (arguments.weights is not None):
        raise NndiffError(
            "MedicalNet's features need its weights, and only they do.",
            expected="--features medicalnet --weights resnet_50.pth",
            remedy="the files are at github.com/Tencent/MedicalNet; --features random needs none",
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
        print(table(block))
    print(f"\nAll figures: {arguments.output / FILE}")


def table(block: Judged) -> str:
    first = block.rows[0].figures
    words = f"{block.channel}: {first.n} volumes a side, features {first.features}, against held-out scans"
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
        "  MEMORISED? Generated volumes lie much closer to training scans than those do to one another: look at them "
        "beside their nearest."
    ]


if __name__ == "__main__":
    sys.exit(main())
