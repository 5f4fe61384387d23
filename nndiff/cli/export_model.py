"""nndiff_export_model: write a trained model into one file, with a model card, to hand it on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nndiff.cli.command import Command, paths_of
from nndiff.cli.model import add_model, model_of
from nndiff.words.paths import demand_zip_name
from nndiff.words.telling import show, tell


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_export_model", __doc__ or "")
    add_model(command, model="folder of the model, instead of -d and -c", folds="folds to export")
    command.flag("output", short="o", type=Path, required=True, metavar="FILE", help="the file, MODEL.zip")
    command.flag("half", action="store_true", help="store weights as float16: half the size, and a measured difference")
    command.flag("licence", default="", metavar="TEXT", help="licence of the weights, for the model card")
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    model, best = model_of(arguments)
    folds = arguments.folds or (best.folds if best else None)
    demand_zip_name(arguments.output)

    import nndiff

    paths = paths_of(arguments)
    done = nndiff.export_model(
        model,
        arguments.output,
        folds=folds,
        half=arguments.half,
        licence=arguments.licence,
        allow_unfinished=arguments.allow_unfinished,
        configuration=arguments.configuration if arguments.dataset and not best else None,
        preprocessed=paths.preprocessed_root,
    )
    for line in done.oddities:
        tell(f"Warning: {line}")
    for fold, change in zip(done.folds, done.changes, strict=False):
        show(f"Fold {fold} as float16: on a random input, its network's output changes by {change}")
    show(f"Exported {_folds(done.folds)}: {done.path}, {done.bytes / 1e6:.1f} MB")
    if not arguments.licence:
        show("The model card states no licence (--licence TEXT). Read MODEL_CARD.md before you hand the file on.")
    show(f"Next: nndiff_predict -i IN -o OUT -m {done.path}")


def _folds(names: Sequence[str]) -> str:
    return f"fold{'' if len(names) == 1 else 's'} {', '.join(names)}"


if __name__ == "__main__":
    sys.exit(main())
