"""nndiff_predict: translate a folder of scans with a trained model, or generate volumes.

Reads scans and checkpoints; writes volumes and `predict.json`. See documentation/how-to/predict.md.

The flags from `--objective` to `--reuse_threshold` change the sampler. One that is unset, or `auto`, takes its tuned
value, else the planned one. Where a part is named, its options can follow: `--rule hot:ahead=3`,
`--part tiles:overlap=0.25 shifts:places=2`. `--eta X`, `--order 2` and `--hot K` are short for `--rule first:eta=X`,
`--rule second` and `--rule hot:ahead=K`. What they do: documentation/how-to/predict.md#the-sampler; all options:
documentation/reference/files.md#a-configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nndiff.cli.command import Command, add_cluster, add_workers, crew
from nndiff.cli.model import add_model, model_of
from nndiff.cli.train import add_device
from nndiff.walk.sampler import Flag, flags
from nndiff.words.errors import NndiffError
from nndiff.words.lives import life
from nndiff.words.paths import demand_input
from nndiff.words.telling import counted, show, tell

DIAL = {"fidelity": 0.0, "balanced": 0.5, "texture": 1.0}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_predict", __doc__ or "", go_on="--continue_prediction")
    _add_where(command)
    _add_how(command)
    add_device(command)
    command.flag(
        "seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed; each case depends on it and on its name (default: 0)",
    )
    command.flag(
        "continue_prediction", action="store_true", help="keep existing outputs and predict only the other cases"
    )
    command.flag(
        "num_parts",
        type=int,
        default=None,
        metavar="N",
        help="split the folder into N parts, one per call (default: as many as a Slurm array has tasks, else 1)",
    )
    command.flag(
        "part_id",
        type=int,
        default=None,
        metavar="K",
        help="number of the part that this call predicts, from 0 (default: that of the Slurm array's task, else 0)",
    )
    add_workers(command, "with --scheduler or --cluster: the most parts at a time")
    add_cluster(command)
    command.flag("disable_progress_bar", action="store_true", help="show no progress bar")
    return command.run(_work, argv)


def _add_where(command: Command) -> None:
    command.flag(
        "input",
        short="i",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder of the scans, CASE_0000.nii.gz, …, or one scan",
    )
    command.flag(
        "output", short="o", type=Path, required=True, metavar="FOLDER", help="folder for the predicted volumes"
    )
    add_model(command, model="folder or zip file of the model, instead of -d and -c", folds="folds to average")
    command.flag("model_name", default=None, metavar="NAME", help="name of an installed model, instead of -d and -c")
    command.flag(
        "chk", default="checkpoint_best.pt", metavar="FILE", help="checkpoint file (default: checkpoint_best.pt)"
    )


def _add_how(command: Command) -> None:
    ends = command.parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--objective",
        "-objective",
        choices=tuple(DIAL),
        default=None,
        help="fidelity: the mean, with the best PSNR; texture: a draw with the truth's texture; balanced: between",
    )
    ends.add_argument(
        "--dial", "-dial", type=float, default=None, metavar="X", help="the same as a number: 0 fidelity, 1 texture"
    )
    for flag in flags():
        metavar = "|".join(["auto", *map(str, flag.choices)]) if flag.choices else flag.metavar
        many: dict[str, Any] = {"nargs": "+"} if flag.many else {}
        command.flag(flag.name, type=_or_auto(flag), default=None, help=flag.help, metavar=metavar, **many)
    command.flag(
        "save_uncertainty", action="store_true", help="save the standard deviation of the draws, in uncertainty/"
    )
    command.flag(
        "save_expected_error",
        action="store_true",
        help="save the error that the network expects of one step, per voxel, in expected_error/",
    )
    command.flag("save_samples", action="store_true", help="save each draw, in samples/")
    command.flag("dicom_out", action="store_true", help="also write DICOM series, in dicom/, if the scans are DICOM")
    command.flag("record_paths", action="store_true", help="write whole paths into predict.json, not only names")
    command.flag("n", type=int, default=1, metavar="N", help="number of volumes to generate (default: 1)")


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
    model, found = model_of(arguments)
    folds = tuple(arguments.folds) if arguments.folds else found.folds if found else None
    if arguments.input is not None:
        demand_input(arguments.input)

    part_id, num_parts = _part(arguments)
    from nndiff.prediction import Request, predict  # takes seconds: what can be refused before is refused above

    request = Request(
        input=arguments.input,
        output=arguments.output,
        model=model,
        configuration=None if arguments.model or found else arguments.configuration,
        volumes=arguments.n,
        folds=folds,
        weights=found.weights if found else {},
        allow_unfinished=arguments.allow_unfinished,
        checkpoint=arguments.chk if arguments.chk.endswith(".pt") else f"{arguments.chk}.pt",
        sampler={flag.name: vars(arguments)[flag.name] for flag in flags()},
        dial=arguments.dial if arguments.objective is None else DIAL[arguments.objective],
        save_uncertainty=arguments.save_uncertainty,
        save_expected_error=arguments.save_expected_error,
        save_samples=arguments.save_samples,
        dicom_out=arguments.dicom_out,
        record_paths=arguments.record_paths,
        seed=arguments.seed,
        device=arguments.device,
        go_on=arguments.continue_prediction or life().later,
        part_id=part_id,
        num_parts=num_parts,
        crew=crew(arguments),
        quiet=arguments.disable_progress_bar,
    )
    summary = predict(request)
    kept = f", {len(summary.skipped)} existed already" if summary.skipped else ""
    show(f"{counted(len(summary.done), 'volume')} written to {arguments.output}{kept}; all settings: {summary.record}")
    for line in summary.warned():
        tell(line)


def _part(arguments: argparse.Namespace) -> tuple[int, int]:
    """Return which part of how many: as asked for, or as the task of a Slurm array."""
    wanted, array = (arguments.part_id, arguments.num_parts), slurm_part(os.environ)
    if wanted == (None, None) and array is not None and not crew(arguments).elsewhere:
        part, parts = array
        tell(f"Part {part} of {parts}, as a task of a Slurm array (-num_parts 1: all cases)")
        return array
    return wanted[0] or 0, 1 if wanted[1] is None else wanted[1]


def slurm_part(variables: Mapping[str, str]) -> tuple[int, int] | None:
    """Return (part, number of parts) of a task of a Slurm array, counted from 0 whatever its numbers are."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")
    if not all(variables.get(name, "").isdecimal() for name in names):
        return None
    task, first, step, count = (int(variables[name]) for name in names)
    part, rest = divmod(task - first, max(1, step))
    if rest or part >= count:  # an array with gaps
        raise NndiffError(
            "The tasks of this Slurm array are not evenly numbered, so their parts are unknown.",
            expected="an array such as 0-7",
            found=f"task {task} of {count}, from {first}",
            remedy="number the tasks evenly, or pass -num_parts and -part_id",
        )
    return part, count


if __name__ == "__main__":
    sys.exit(main())
