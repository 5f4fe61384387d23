"""nndiff_train: train one fold of a preprocessed dataset.  On several GPUs: torchrun … -m nndiff.cli.train"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from nndiff.cli.command import Command, add_workers, paths_of
from nndiff.words.stopping import Stopped

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_train", __doc__ or "", go_on="--c", at_start=("time_budget", "seed", "set", "from"))
    add_fold(command)
    command.flag("c", action="store_true", help="continue from the last checkpoint")
    add_device(command)
    command.flag(
        "time_budget",
        type=seconds_of,
        default=None,
        metavar="TIME",
        help="training and validation time, e.g. 90s, 8h, 2d (default: as planned)",
    )
    command.flag(
        "seed", type=int, default=0, metavar="N", help="random seed of weights, batches, times and noise (default: 0)"
    )
    command.flag(
        "set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change fields for this training, e.g. learning_rate=1e-4",
    )
    command.flag(
        "from",
        also="pretrained_weights",
        default=None,
        metavar="RUN",
        help="begin with the weights of another fold, checkpoint or configuration, or of MODEL.zip",
    )
    command.flag("no_tune", action="store_true", help="do not tune the sampler after the training")
    add_workers(command)
    return command.run(_work, argv)


def add_fold(command: Command) -> None:
    command.parser.add_argument("dataset", metavar="DATASET", help="dataset number or name")
    command.parser.add_argument("configuration", metavar="CONFIG", help="configuration: bridge, ddpm, …")
    command.parser.add_argument("fold", metavar="FOLD", help="fold: 0, 1, …, or all to train on every case")


def add_device(command: Command) -> None:
    command.flag("device", choices=("cuda", "cpu", "mps"), default=None, help="device (default: the GPU, else the CPU)")


def seconds_of(text: str) -> float:
    """Return the seconds of a time such as '8h' (28800); refuse other texts."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 30m, 8h or 2d; found {text}")
    return float(match[1]) * SECONDS[match[2] or "s"]


def _work(arguments: argparse.Namespace) -> None:
    import nndiff

    paths = paths_of(arguments)
    folder = nndiff.train(
        arguments.dataset,
        arguments.configuration,
        arguments.fold,
        settings=arguments.set,
        time_budget=arguments.time_budget,
        seed=arguments.seed,
        resume=arguments.c,
        begin_with=vars(arguments)["from"],
        device=arguments.device,
        workers=arguments.np,
        preprocessed=paths.preprocessed,
        results=paths.results,
    )
    if _is_first():
        print(f"Trained: {folder}")
        name = paths.dataset_name(arguments.dataset)
        if not arguments.no_tune:
            try:
                _tune(folder, paths.preprocessed / name, arguments)
            except KeyboardInterrupt as stopped:  # the training itself is done
                raise Stopped(getattr(stopped, "signum", signal.SIGINT), saved=True) from None
        print(f"Next: nndiff_predict -i IN -o OUT -d {name[7:10]} -c {arguments.configuration} -f {arguments.fold}")


def _tune(folder: Path, prepared: Path, arguments: argparse.Namespace) -> None:
    """Tune the sampler in a fifth of the training time, unless the same checkpoint is already tuned."""
    from nndiff.resources.machine import training_device
    from nndiff.tuning.run import SHARE, Request, can_be_tuned, run, up_to_date

    if can_be_tuned(folder) and not up_to_date(folder):
        budget = arguments.time_budget
        device = training_device(arguments.device)
        run(Request(folder, prepared, device, None if budget is None else SHARE * budget))


def _is_first() -> bool:
    import os

    return int(os.environ.get("RANK", "0")) == 0


if __name__ == "__main__":
    sys.exit(main())
