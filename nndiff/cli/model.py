"""The flags that name a trained model, shared by the commands that use one."""

from __future__ import annotations

import argparse
from pathlib import Path

from nndiff.cli.command import Command, paths_of
from nndiff.words import best
from nndiff.words.best import Best
from nndiff.words.errors import NndiffError
from nndiff.words.paths import demand_model


def add_model(command: Command, model: str, folds: str) -> None:
    """Add -d, -c, -m and -f; `model` and `folds` are what -m and -f name."""
    command.flag("dataset", short="d", default=None, metavar="ID", help="dataset number or name of the model")
    command.flag(
        "configuration",
        short="c",
        default="bridge",
        metavar="NAME",
        help=f"configuration of the model; {best.NAME}: as nndiff_find_best_configuration chose (default: bridge)",
    )
    command.flag("model", short="m", type=Path, default=None, metavar="PATH", help=model)
    command.flag(
        "folds", short="f", nargs="+", default=None, metavar="FOLD", help=f"{folds} (default: all that are trained)"
    )
    command.flag("allow_unfinished", action="store_true", help="also use folds whose training has not ended")


def model_of(arguments: argparse.Namespace) -> tuple[Path, Best | None]:
    """Return the model that is named, in exactly one way, and the comparison that chose it, if it is to be the best."""
    named = {
        "-d": arguments.dataset,
        "-m": arguments.model,
        "--model_name": getattr(arguments, "model_name", None),
    }
    given = [flag for flag, value in named.items() if value is not None]
    if len(given) != 1:
        raise NndiffError(
            "The model must be named in one way, by its dataset or by its folder.",
            found=" and ".join(given) or "neither -d nor -m",
            remedy="pass -d DATASET -c CONFIG, or -m MODEL_FOLDER",
        )
    paths = paths_of(arguments)
    if named["--model_name"] is not None:
        return paths.installed_model(named["--model_name"]), None
    path: Path = arguments.model
    found = None
    if path is None:
        results = paths.results / paths.dataset_name(arguments.dataset)
        found = best.load(results) if arguments.configuration == best.NAME else None
        path = results / (found.configuration if found else str(arguments.configuration))
    demand_model(path)
    return path, found
