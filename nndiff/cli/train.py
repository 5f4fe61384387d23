"""nndiff_train: train one fold of a preprocessed dataset.  On several GPUs: torchrun … -m nndiff.cli.train

Reads the preprocessed cases and `plan.json`; writes checkpoints, `progress.png` and `log.txt`. See
documentation/how-to/train.md.

The tuning after a training takes a fifth of the time budget in addition. `--from` takes the folder of a fold, a
checkpoint, or a configuration of this dataset (documentation/how-to/generate.md#from-coarse-to-fine).
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from nndiff.cli.command import Command, add_workers, paths_of
from nndiff.cli.times import HINT, seconds_of
from nndiff.words.stopping import Stopped
from nndiff.words.telling import fitted


def main(argv: Sequence[str] | None = None) -> int:
    at_start = ("time_budget", "seed", "set", "from", "restart")
    command = Command("nndiff_train", __doc__ or "", go_on="--c", at_start=at_start)
    add_fold(command)
    which = command.parser.add_mutually_exclusive_group()
    which.add_argument(
        "-c", "--c", action="store_true", help="go on from the last checkpoint, whatever plan.json says by now"
    )
    which.add_argument(
        "--restart", "-restart", action="store_true", help="begin anew; an earlier training is moved to earlier/"
    )
    add_device(command)
    command.flag(
        "time_budget",
        type=seconds_of,
        default=None,
        metavar="TIME",
        help=f"time for training and validation, {HINT} (default: as planned); tuning takes a fifth on top",
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
    command.flag("tensorboard", action="store_true", help="also write the curves for TensorBoard, in tensorboard/")
    command.flag("no_tune", action="store_true", help="do not tune the sampler after the training")
    add_workers(command)
    return command.run(_work, argv)


def add_fold(command: Command) -> None:
    command.parser.add_argument("dataset", metavar="DATASET", help="dataset number or name")
    command.parser.add_argument("configuration", metavar="CONFIG", help="configuration: bridge, ddpm, …")
    command.parser.add_argument("fold", metavar="FOLD", help="fold: 0, 1, …, or all to train on every case")


def add_device(command: Command) -> None:
    command.flag("device", choices=("cuda", "cpu", "mps"), default=None, help="device (default: the GPU, else the CPU)")


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
        restart=arguments.restart,
        tensorboard=arguments.tensorboard,
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
    from nndiff.tuning.run import SHARE, Request, can_be_tuned, ends, run, summary, up_to_date

    if can_be_tuned(folder) and not up_to_date(folder):
        budget = arguments.time_budget
        device = training_device(arguments.device)
        found = run(Request(folder, prepared, device, None if budget is None else SHARE * budget))
        print(fitted(f"{summary(found)}\n{ends(found)}", sys.stdout))


def _is_first() -> bool:
    import os

    return int(os.environ.get("RANK", "0")) == 0


if __name__ == "__main__":
    sys.exit(main())
