"""The base of all commands: flags with one or two dashes, root folders, error messages, advice on nnU-Net's flags."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nndiff.words.errors import NndiffError, nearest
from nndiff.words.paths import Paths

# Flags of nnU-Net that nndiff does not have → what to use instead.
NNUNET_FLAGS = {
    "-fpe": "one fingerprint serves all plans; drop the flag",
    "-npfp": "use -np: one number of workers for every stage",
    "-pl": "use --set key=value: the planner's decisions are fields, not classes",
    "-preprocessor_name": "use --set key=value: the planner's decisions are fields, not classes",
    "-overwrite_plans_name": "one plan.json holds all configurations; change fields with --set",
    "-p": "one plan.json holds all configurations; choose one with its name",
    "-tr": "there is one trainer: change fields with --set key=value",
    "-num_gpus": "start with torchrun --nproc_per_node=N -m nndiff.cli.train …",
    "-npp": "reading, computing and writing overlap by themselves; drop the flag",
    "-pretrained_weights": "begin with the weights of another run by --from RUN",
    "-nps": "reading, computing and writing overlap by themselves; drop the flag",
    "-plans_name": "one plan.json holds all configurations",
}


class Command:
    """A command and its flags; `run` parses the arguments, calls the work and prints errors as messages."""

    def __init__(self, name: str, description: str):
        self.parser = _Parser(
            prog=name,
            description=description.partition("\n\n")[0],
            allow_abbrev=False,
            add_help=False,
            formatter_class=_OneSpelling,
        )
        self.flag("help", short="h", action="help", default=argparse.SUPPRESS, help="show this and stop")
        for root, holds in (
            ("raw", "raw datasets"),
            ("preprocessed", "plans and prepared cases"),
            ("results", "trained models"),
        ):
            self.flag(
                root,
                type=Path,
                metavar="FOLDER",
                default=argparse.SUPPRESS,
                help=f"{holds} (instead of nndiff_{root} in the environment)",
            )
        self.flag("debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")

    def flag(self, name: str, short: str | None = None, **options: Any) -> None:
        """Add a flag that can be written as -name and as --name."""
        first = [f"-{short}"] if short else []
        self.parser.add_argument(*first, f"-{name}", f"--{name}", dest=name.replace("-", "_"), **options)

    def switch(self, name: str, default: bool, help: str) -> None:
        """Add the two flags --name and --no-name."""
        self.parser.add_argument(f"-{name}", f"--{name}", dest=name, action="store_true", default=default, help=help)
        self.parser.add_argument(
            f"-no-{name}",
            f"--no-{name}",
            dest=name,
            action="store_false",
            default=argparse.SUPPRESS,
            help=f"not {name}",
        )

    def run(self, work: Callable[[argparse.Namespace], None], argv: Sequence[str] | None) -> int:
        words = sys.argv[1:] if argv is None else list(argv)
        _refuse_nnunet_flags(self.parser, words)
        arguments = self.parser.parse_args(words)
        debug = getattr(arguments, "debug", False)
        with contextlib.suppress(ValueError):  # in a thread, where Python allows no signal handler
            signal.signal(signal.SIGTERM, _terminated)
        try:
            work(arguments)
        except NndiffError as error:
            if debug:
                traceback.print_exc()
            print(f"\nError: {error}", file=sys.stderr)
            return 1
        except BrokenPipeError:  # the reader of the output has ended, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KeyboardInterrupt:
            print("\nStopped. What is finished is kept; the same command goes on from here.", file=sys.stderr)
            return 130
        return 0


def paths_of(arguments: argparse.Namespace) -> Paths:
    return Paths(*(getattr(arguments, root, None) for root in ("raw", "preprocessed", "results")))


def add_dataset(command: Command) -> None:
    command.flag("dataset", short="d", nargs="+", required=True, metavar="ID", help="dataset numbers or names")


def add_workers(command: Command) -> None:
    command.flag(
        "np",
        type=_count,
        default=None,
        metavar="N",
        help="worker processes at most; 0 works serially, unset follows cores and free RAM",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more; found {text}")
    return int(text)


def add_configurations(command: Command) -> None:
    command.flag(
        "configurations",
        short="c",
        nargs="+",
        default=None,
        metavar="NAME",
        help="configurations; unset: bridge ddpm, in generation ddpm prdit",
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose error about an unknown flag names the nearest known one."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if message.startswith("unrecognized") and unknown and unknown[0].startswith("-"):
            known = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            message = f"unknown flag {unknown[0]}: {nearest('--' + unknown[0].lstrip('-'), known)}"
        elif message.startswith("unrecognized"):
            message = f"too many values: {' '.join(unknown)}; the flag before them takes fewer here"
        self.exit(2, f"{self.prog}: {message}\n{self.prog} -h explains every flag\n")


class _OneSpelling(argparse.HelpFormatter):
    """A help format that lists each long flag once, with two dashes, although one dash works too."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = [
            flag for flag in action.option_strings if flag.startswith("--") or "-" + flag not in action.option_strings
        ]
        if not flags:
            return super()._format_action_invocation(action)
        values = "" if action.nargs == 0 else " " + self._format_args(action, action.dest.upper())
        return ", ".join(flags) + values


def _refuse_nnunet_flags(
    parser: argparse.ArgumentParser, words: Sequence[str], known: Mapping[str, str] = NNUNET_FLAGS
) -> None:
    for word in words:
        flag = "-" + word.lstrip("-").partition("=")[0]
        if word.startswith("-") and flag in known and flag not in parser._option_string_actions:
            parser.exit(2, f"{parser.prog}: nnU-Net's {flag} has no meaning here: {known[flag]}\n")


def _terminated(signum: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
