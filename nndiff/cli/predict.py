"""nndiff_predict: translate a folder of scans with a trained model, or generate volumes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nndiff.cli.command import Command, paths_of
from nndiff.cli.train import add_device
from nndiff.walk.sampler import Flag, flags
from nndiff.words.errors import NndiffError


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_predict", __doc__ or "")
    _add_where(command)
    _add_how(command)
    add_device(command)
    command.flag("seed", type=int, default=0, metavar="N", help="a case depends on (seed, its name) alone (0)")
    command.flag("continue_prediction", action="store_true", help="keep the outputs that are there already")
    command.flag("num_parts", type=int, default=1, metavar="N", help="share the folder among N calls (1)")
    command.flag("part_id", type=int, default=0, metavar="K", help="which share this call takes, from 0")
    command.flag("disable_progress_bar", action="store_true", help="no progress bar")
    return command.run(_work, argv)


def _add_where(command: Command) -> None:
    command.flag("input", short="i", type=Path, default=None, metavar="FOLDER", help="scans: CASE_0000.nii.gz …")
    command.flag("output", short="o", type=Path, required=True, metavar="FOLDER", help="where volumes go")
    command.flag("dataset", short="d", default=None, metavar="ID", help="dataset number or name of the model")
    command.flag("configuration", short="c", default="bridge", metavar="NAME", help="its configuration (bridge)")
    command.flag("model", short="m", type=Path, default=None, metavar="FOLDER", help="or the model's own folder")
    command.flag("folds", short="f", nargs="+", default=None, metavar="FOLD", help="folds to average; unset: all")
    command.flag("chk", default="checkpoint_best.pt", metavar="FILE", help="checkpoint (checkpoint_best.pt)")


def _add_how(command: Command) -> None:
    for flag in flags():
        metavar = "|".join(["auto", *map(str, flag.choices)]) if flag.choices else flag.metavar
        many: dict[str, Any] = {"nargs": "+"} if flag.many else {}
        command.flag(flag.name, type=_or_auto(flag), default=None, help=flag.help, metavar=metavar, **many)
    command.flag("save_uncertainty", action="store_true", help="their standard deviation, in uncertainty/")
    command.flag("save_samples", action="store_true", help="each draw, in samples/")
    command.flag("dicom_out", action="store_true", help="also as derived DICOM series, in dicom/; of DICOM scans")
    command.flag("n", type=int, default=1, metavar="N", help="volumes to generate, for a model that generates (1)")


def _or_auto(flag: Flag) -> Callable[[str], Any]:
    """Return the parser of a flag's value; `auto` means the planned or tuned value, as if the flag were omitted."""

    def read(text: str) -> Any:
        if text == "auto":
            return None
        try:
            value = flag.type(text)
        except ValueError:
            value = None
        if value is None or (flag.choices and value not in flag.choices):
            expected = "a whole number" if flag.type is int else "a number"
            expected = ", ".join(map(str, flag.choices)) if flag.choices else expected
            raise argparse.ArgumentTypeError(f"expected auto or {expected}; found {text}")
        return value

    return read


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.prediction import Request, predict

    request = Request(
        input=arguments.input,
        output=arguments.output,
        model=_model(arguments),
        configuration=None if arguments.model else arguments.configuration,
        volumes=arguments.n,
        folds=tuple(arguments.folds) if arguments.folds else None,
        checkpoint=arguments.chk if arguments.chk.endswith(".pt") else f"{arguments.chk}.pt",
        sampler={flag.name: vars(arguments)[flag.name] for flag in flags()},
        save_uncertainty=arguments.save_uncertainty,
        save_samples=arguments.save_samples,
        dicom_out=arguments.dicom_out,
        seed=arguments.seed,
        device=arguments.device,
        go_on=arguments.continue_prediction,
        part_id=arguments.part_id,
        num_parts=arguments.num_parts,
        quiet=arguments.disable_progress_bar,
    )
    summary = predict(request)
    kept = f", {len(summary.skipped)} were there already" if summary.skipped else ""
    print(f"{len(summary.done)} volumes written to {arguments.output}{kept}; how they were made: {summary.record}")
    for case, lines in summary.warnings.items():
        for line in lines:
            print(f"Warning: {case}: {line}", file=sys.stderr)


def _model(arguments: argparse.Namespace) -> Path:
    if (arguments.model is None) == (arguments.dataset is None):
        raise NndiffError("Name the model once.", remedy="-d DATASET -c CONFIG, or -m MODEL_FOLDER")
    if arguments.model is not None:
        return Path(arguments.model)
    paths = paths_of(arguments)
    return paths.results / paths.dataset_name(arguments.dataset) / str(arguments.configuration)


if __name__ == "__main__":
    sys.exit(main())
