"""nndiff_train: train one fold of a planned and preprocessed dataset.  On many GPUs: torchrun … -m nndiff.cli.train"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nndiff.cli.command import Command, add_workers, paths_of
from nndiff.plans.plan import Plan
from nndiff.words.errors import NndiffError
from nndiff.words.fingerprint import Fingerprint

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_train", __doc__ or "")
    add_fold(command)
    command.flag("c", action="store_true", help="go on from the last checkpoint")
    add_device(command)
    command.flag(
        "time_budget",
        type=seconds_of,
        default=None,
        metavar="TIME",
        help="for training and validation together, e.g. 90s, 30m, 8h, 2d; unset takes the plan's steps",
    )
    command.flag("seed", type=int, default=0, metavar="N", help="of weights, batches, times and noises (0)")
    command.flag(
        "set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change the configuration for this training, e.g. learning_rate=1e-4 training_steps=20000",
    )
    command.flag(
        "from",
        default=None,
        metavar="RUN",
        help="begin with the weights of another run: its fold's folder, a checkpoint, or a configuration",
    )
    command.flag("no_tune", action="store_true", help="do not choose a sampler when the training is done")
    add_workers(command)
    return command.run(_work, argv)


def add_fold(command: Command) -> None:
    command.parser.add_argument("dataset", metavar="DATASET", help="dataset number or name")
    command.parser.add_argument("configuration", metavar="CONFIG", help="bridge, ddpm, …")
    command.parser.add_argument("fold", metavar="FOLD", help="0, 1, …, or all: train on every case")


def add_device(command: Command) -> None:
    command.flag("device", choices=("cuda", "cpu", "mps"), default=None, help="unset takes the GPU, else the CPU")


def seconds_of(text: str) -> float:
    """'8h' → 28800."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"expected a time such as 90s, 30m, 8h or 2d; found {text}")
    return float(match[1]) * SECONDS[match[2] or "s"]


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.checkpoint import LATEST
    from nndiff.planning.overrides import put_in
    from nndiff.plans.plan import load_plan
    from nndiff.training.request import Request
    from nndiff.training.run import train

    paths = paths_of(arguments)
    name = paths.dataset_name(arguments.dataset)
    prepared = paths.preprocessed / name
    plan = load_plan(prepared / "plan.json", f"plan it first: nndiff_plan_and_preprocess -d {arguments.dataset}")
    configuration = planned(plan, arguments.configuration)
    results = paths.results / name
    latest = results / configuration / f"fold_{arguments.fold}" / LATEST
    given = arguments.set or arguments.time_budget or arguments.seed or vars(arguments)["from"]
    if arguments.c and latest.exists() and given:
        raise NndiffError(
            "A training that goes on keeps what it was begun with.",
            found="--c with --set, --seed, --from or --time_budget",
            where=latest,
            remedy="leave them out, or move the folder away to start anew",
        )
    request = Request(
        plan=put_in(plan, configuration, arguments.set),
        configuration=configuration,
        fold=arguments.fold,
        prepared=prepared,
        results=results,
        device=_device(arguments.device),
        seen=_seen(prepared),
        seed=arguments.seed,
        time_budget=arguments.time_budget,
        go_on=arguments.c,
        workers=arguments.np,
        begin_with=_begun_with(arguments, results),
    )
    folder = train(request)
    if _is_first():
        print(f"Trained: {folder}")
        if not arguments.no_tune and plan.task == "translation":
            _tune(folder, prepared, request.device, arguments.time_budget)
        print(f"Next: nndiff_predict -i IN -o OUT -d {name[7:10]} -c {configuration} -f {arguments.fold}")


def _begun_with(arguments: argparse.Namespace, results: Path) -> Path | None:
    from nndiff.checkpoint import BEST

    wanted: str | None = vars(arguments)["from"]
    if wanted is None:
        return None
    given, sibling = Path(wanted), results / wanted / f"fold_{arguments.fold}"
    folder = sibling if sibling.is_dir() else given
    return folder / BEST if folder.is_dir() or folder.suffix != ".pt" else folder


def _tune(folder: Path, prepared: Path, device: Any, time_budget: float | None) -> None:
    from nndiff.tuning.run import SHARE, up_to_date
    from nndiff.tuning.run import Request as Tuning
    from nndiff.tuning.run import run as tune

    if not up_to_date(folder):
        tune(Tuning(folder, prepared, device, None if time_budget is None else SHARE * time_budget))


def planned(plan: Plan, name: str) -> str:
    from nndiff.words.errors import nearest

    if name not in plan.configurations:
        raise NndiffError(f"The plan has no configuration '{name}'.", remedy=nearest(name, plan.configurations))
    return name


def _device(wanted: str | None):  # type: ignore[no-untyped-def]
    """torchrun gives each process its own GPU."""
    import os

    import torch

    from nndiff.resources.machine import demand_device

    device = demand_device(wanted)
    if device != "cuda":
        return torch.device(device)
    torch.cuda.set_device(local := int(os.environ.get("LOCAL_RANK", "0")))
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda", local)


def _is_first() -> bool:
    import os

    return int(os.environ.get("RANK", "0")) == 0


def _seen(prepared: Path):  # type: ignore[no-untyped-def]
    """What the sources looked like, for prediction to compare with."""
    from nndiff.checkpoint import Seen
    from nndiff.plans.plan import load

    fingerprint = load(Fingerprint, prepared / "fingerprint.json", "extract it first: nndiff_extract_fingerprint")
    rows = []
    for channel, name in enumerate(fingerprint.channel_names):
        peaks = [case.source[channel].peak for case in fingerprint.cases]
        minima = [case.source[channel].minimum for case in fingerprint.cases]
        rows.append(Seen(name, (min(peaks), max(peaks)), (min(minima), max(minima))))
    return tuple(rows)


if __name__ == "__main__":
    sys.exit(main())
