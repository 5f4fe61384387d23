"""nndiff_submit: submit the steps from a dataset to its figures as jobs of Slurm, one job per fold.

    nndiff_submit 1 bridge 0-4 --time 8h --gpus 1

Reads a dataset or its plan; writes the scripts of the jobs and their logs. See documentation/how-to/many_machines.md.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nndiff.cli import train
from nndiff.cli.command import Command, Described, parsed, paths_of
from nndiff.cli.times import seconds_of
from nndiff.words.errors import NndiffError
from nndiff.words.paths import Paths

if TYPE_CHECKING:
    from nndiff.resources.slurm import Job

SHORTEST = 600.0  # seconds of a job: it has to start, to get on and to save
STEPS = ("plan", "train", "tune", "predict", "evaluate")


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_submit", __doc__ or "")
    command.parser.add_argument("dataset", metavar="DATASET", help="dataset number or name")
    command.parser.add_argument("configuration", metavar="CONFIG", help="configuration: bridge, ddpm, …")
    command.parser.add_argument("folds", metavar="FOLDS", help="folds: 0, 0-4, 0,2, or all to train on every case")
    command.flag(
        "steps",
        nargs="+",
        choices=STEPS,
        default=["train"],
        metavar="STEP",
        help="plan (and preprocess), train, tune, predict (imagesTs), evaluate; each after the one before "
        "(default: train, which tunes too)",
    )
    _add_resources(command)
    command.flag("time_budget", type=_time, default=None, metavar="TIME", help="training time (default: as planned)")
    command.flag(
        "with", default="", metavar="FLAGS", help="further flags of nndiff_train in one word, e.g. --with='--seed 1'"
    )
    command.flag("parts", type=int, default=1, metavar="N", help="jobs that share the prediction (default: 1)")
    command.flag("before", nargs="+", default=[], metavar="LINE", help="lines before the work, e.g. 'module load cuda'")
    where = "folder of scripts and logs (default: slurm/ in the results)"
    command.flag("logs", type=Path, default=None, metavar="FOLDER", help=where)
    command.flag("dry-run", action="store_true", help="print the scripts, submit nothing")
    return command.run(_work, argv)


def _add_resources(command: Command) -> None:
    command.flag("time", type=_time, default=None, metavar="TIME", help="time limit of a job, e.g. 8h; it begins again")
    command.flag("gpus", type=int, default=1, metavar="N", help="GPUs per node to train a fold (default: 1)")
    command.flag("nodes", type=int, default=1, metavar="N", help="nodes that train a fold together (default: 1)")
    command.flag("cpus", type=int, default=8, metavar="N", help="cores per node (default: 8)")
    command.flag("memory", default=None, metavar="SIZE", help="RAM per node, e.g. 32G (default: the cluster's)")
    command.flag("partition", default=None, metavar="NAME", help="partition (default: the cluster's)")
    command.flag("account", default=None, metavar="NAME", help="account (default: the cluster's)")
    command.flag(
        "sbatch",
        nargs="+",
        default=[],
        metavar="FLAG=VALUE",
        help="further flags of sbatch, without dashes, e.g. qos=low constraint=a100",
    )


def _time(text: str) -> str:
    seconds_of(text)
    return text


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, and the words of each step."""

    arguments: argparse.Namespace
    paths: Paths
    name: str  # of the dataset

    @property
    def folds(self) -> str:
        folds: str = self.arguments.folds
        if folds != "all" and not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", folds):
            raise NndiffError("These are no folds.", expected="0, 0-4, 0,2 or all", found=folds)
        return folds

    @property
    def fold(self) -> str:
        """The fold as a job's script writes it."""
        return self.folds if self.folds.isdecimal() or self.folds == "all" else '"$SLURM_ARRAY_TASK_ID"'

    @property
    def array(self) -> str:
        return self.folds if "$" in self.fold else ""

    @property
    def listed(self) -> str:
        """Every fold by its number, as nndiff_predict takes them."""
        if self.folds == "all":
            return self.folds
        ends = [[int(end) for end in part.split("-")] for part in self.folds.split(",")]
        return " ".join(str(fold) for first, *rest in ends for fold in range(first, rest[0] + 1 if rest else first + 1))

    @property
    def one(self) -> str:
        return f"{self.arguments.dataset} {self.arguments.configuration} {self.fold}"

    @property
    def scans(self) -> Path:
        return self.paths.raw / self.name / "imagesTs"

    @property
    def predicted(self) -> Path:
        configuration: str = self.arguments.configuration
        return self.paths.results / self.name / configuration / "predicted"

    def plan(self) -> str:
        return f"nndiff_plan_and_preprocess -d {self.arguments.dataset} -c {self.arguments.configuration}"

    def train(self) -> str:
        budget, tuned = self.arguments.time_budget, "tune" in self.arguments.steps
        words = [*(["--time_budget", budget] if budget else []), *(["--no_tune"] if tuned else [])]
        more = shlex.split(vars(self.arguments)["with"])
        return " ".join(["nndiff_train", self.one, *map(shlex.quote, [*words, *more])])

    def tune(self) -> str:
        return f"nndiff_tune {self.one}"

    def predict(self) -> str:
        where = f"-i {_quoted(self.scans)} -o {_quoted(self.predicted)}"
        model = f"-d {self.arguments.dataset} -c {self.arguments.configuration} -f {self.listed}"
        return f"nndiff_predict {where} {model} --disable_progress_bar"

    def evaluate(self) -> str:
        truth, out = _quoted(self.paths.raw / self.name / "targetsTs"), _quoted(self.predicted)
        return f"nndiff_evaluate {truth} {out} -i {_quoted(self.scans)} -o {out}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path.resolve()))


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.resources import slurm

    paths = paths_of(arguments)
    wanted = _Wanted(arguments, paths, paths.dataset_name(arguments.dataset))
    steps = [step for step in STEPS if step in arguments.steps]
    _demand_sound(wanted, steps)
    jobs = [_job(wanted, step) for step in steps]
    logs = arguments.logs or paths.results / wanted.name / "slurm"
    logs = logs.resolve()
    roots = {f"nndiff_{root}": getattr(paths, root).resolve() for root in ("raw", "preprocessed", "results")}
    place = [*slurm.exports(roots, [Path(sys.executable).parent]), f"cd {_quoted(Path.cwd())}", *arguments.before]
    if arguments.dry_run:
        for i, job in enumerate(jobs):
            print(slurm.script(job, place, logs, f"NUMBER_OF_{steps[i - 1].upper()}" if i else ""))
        return
    numbers = slurm.submit(jobs, place, logs)
    for i, (step, job, number) in enumerate(zip(steps, jobs, numbers, strict=True)):
        tasks = f", tasks {job.array}" if job.array else ""
        print(f"Submitted {step}: job {number}{tasks}{f', after {numbers[i - 1]}' if i else ''}")
    print(f"Scripts and logs: {logs}\nWatch them with: squeue --me")


def _job(wanted: _Wanted, step: str) -> Job:
    from nndiff.resources.slurm import Job

    asked, words = wanted.arguments, getattr(wanted, step)
    ranks = max(1, asked.gpus) if step == "train" else 1  # a node
    nodes = asked.nodes if step == "train" else 1
    resources = {
        "nodes": str(nodes),
        "ntasks-per-node": str(ranks),
        "cpus-per-task": str(max(1, asked.cpus // ranks)),
    }
    if asked.gpus and step != "evaluate":
        resources["gpus-per-node"] = str(ranks)
    if asked.time:
        minutes = max(1, round(seconds_of(asked.time) / 60))
        resources["time"] = str(minutes)
    for flag, value in (("mem", asked.memory), ("partition", asked.partition), ("account", asked.account)):
        if value:
            resources[flag] = value
    resources |= {name: value for name, _, value in (word.lstrip("-").partition("=") for word in asked.sbatch)}
    array = {"train": wanted.array, "tune": wanted.array, "predict": f"0-{asked.parts - 1}" if asked.parts > 1 else ""}
    name = f"nndiff_{wanted.name[7:10]}_{asked.configuration}_{step}"
    return Job(name, (words(),), resources, array.get(step, ""), together=nodes * ranks > 1)


def _demand_sound(wanted: _Wanted, steps: Sequence[str]) -> None:
    """Refuse what would fail only in a job."""
    asked = wanted.arguments
    for name, least in (("gpus", 0), ("nodes", 1), ("cpus", 1), ("parts", 1)):
        if getattr(asked, name) < least:
            raise NndiffError(f"--{name} is too small.", expected=f"{least} or more", found=getattr(asked, name))
    if asked.time and seconds_of(asked.time) < SHORTEST:
        raise NndiffError(
            "--time is too short: a job would be told to stop before it gets on, again and again.",
            expected=f"{SHORTEST / 60:g} minutes or more",
            found=asked.time,
        )
    if "plan" not in steps and "train" in steps:
        from nndiff.plans.plan import load_plan

        plan = load_plan(
            wanted.paths.preprocessed / wanted.name / "plan.json",
            f"plan it first: nndiff_plan_and_preprocess -d {asked.dataset}, or add the step plan",
        )
        plan.demand_configuration(asked.configuration)
        _demand_folds(wanted)
    if "train" in steps:
        _demand_flags(vars(asked)["with"])
    needed: dict[str, Callable[[], list[Path]]] = {
        "predict": lambda: [wanted.scans],
        "evaluate": lambda: [wanted.scans, wanted.paths.raw / wanted.name / "targetsTs"],
    }
    for step in steps:
        for folder in needed.get(step, list)():
            if not folder.is_dir():
                raise NndiffError(
                    f"The step {step} needs held-out scans.",
                    expected="imagesTs with their sources, and targetsTs to measure against",
                    found=f"no folder {folder.name}",
                    where=folder,
                    remedy=f"leave out {step}, or add the scans to the dataset",
                )


def _demand_folds(wanted: _Wanted) -> None:
    """Refuse a fold that the prepared cases do not have."""
    from nndiff.training import folds

    folder = wanted.paths.preprocessed / wanted.name
    splits = folds.splits_of(folder, folds.groups_of(folder / wanted.arguments.configuration))
    for fold in wanted.listed.split():
        if fold != folds.ALL:
            folds.demand_fold(fold, splits, folder / folds.FILE)


def _demand_flags(text: str) -> None:
    """Leave with the words of nndiff_train if it does not have these flags."""
    asked = Described()
    train.main(asked)
    assert asked.parser is not None
    parsed(asked.parser, ["1", "bridge", "0", *shlex.split(text)])


if __name__ == "__main__":
    sys.exit(main())
