"""The base of all commands: flags with one or two dashes, root folders, error messages, advice on nnU-Net's flags."""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from nndiff.words.crew import BATCH_SYSTEMS, Crew
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.files import explained
from nndiff.words.paths import Paths
from nndiff.words.stopping import STOPPING, Stopped, handled, raise_stopped
from nndiff.words.strict_json import encode
from nndiff.words.telling import Quiet, fitted, tell
from nndiff.words.version import VERSION

# Flags of nnU-Net that nndiff does not have → what to use instead.
NNUNET_FLAGS = {
    "-fpe": "all plans use the same fingerprint, so leave the flag out",
    "-npfp": "use -np, the number of workers of every stage",
    "-pl": "use --set key=value, because the planner's decisions are fields, not classes",
    "-preprocessor_name": "use --set key=value, because the planner's decisions are fields, not classes",
    "-overwrite_plans_name": "one plan.json holds all configurations; use --set to change their fields",
    "-p": "one plan.json holds all configurations; choose one by its name",
    "-tr": "there is one trainer, so leave the flag out; nndiff_plan --set key=value changes what it does",
    "-num_gpus": "start the training with torchrun --nproc_per_node=N -m nndiff.cli.train …",
    "-npp": "reading, computing and writing always overlap, so leave the flag out",
    "-nps": "reading, computing and writing always overlap, so leave the flag out",
    "-plans_name": "one plan.json holds all configurations, so leave the flag out",
    "-val": "a training measures its held-out cases after every epoch; nndiff_find_best_configuration measures a fold",
    "-val_best": "a training measures its held-out cases after every epoch, and prediction uses the best checkpoint",
    "-disable_tta": "prediction mirrors nothing, so leave the flag out",
    "-npz": "there are no probabilities; nndiff_predict --save_samples keeps draws, --save_uncertainty their spread",
    "-save_probabilities": "there are no probabilities; --save_samples keeps draws, --save_uncertainty their spread",
    "-disable_checkpointing": "a training that is stopped goes on from its checkpoints, so they are always written",
    "-disable_ensembling": "configurations are compared and never averaged with each other, so leave the flag out",
    "-no_overwrite": "results that are up to date are always kept, so leave the flag out",
}


# Errors of a disk, wherever they show; others are errors of nndiff, which need their traceback.
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE)


class Described(list[str]):
    """Arguments with which a command does no work, but leaves its parser here."""

    parser: argparse.ArgumentParser | None = None


class Command:
    """A command and its flags; `run` parses the arguments, calls the work and prints errors as messages.

    Exit codes: 0 done, 1 an error, 2 a wrong flag, 130 stopped by Ctrl-C, 75 stopped by another signal: schedulers may
    run the command again.
    """

    def __init__(
        self, name: str, description: str, go_on: str = "", at_start: Sequence[str] = (), answers: str = ""
    ):  # answers: what the command finds out, which --json prints
        self.go_on = go_on  # the flag with which an interrupted command continues, if it needs one
        self.at_start = at_start  # flags that such a command refuses
        self.parser = _Parser(
            prog=name,
            description=description.partition("\n\n")[0],
            allow_abbrev=False,
            add_help=False,
            formatter_class=_OneSpelling,
        )
        self.flag("help", short="h", action="help", default=argparse.SUPPRESS, help="show this help and stop")
        for root, holds in (
            ("raw", "raw datasets"),
            ("preprocessed", "plans and preprocessed cases"),
            ("results", "trained models"),
        ):
            self.flag(
                root,
                type=Path,
                metavar="FOLDER",
                default=argparse.SUPPRESS,
                help=f"folder of {holds} (default: $nndiff_{root})",
            )
        self.flag("debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")
        self.flag(
            "quiet", action="store_true", default=argparse.SUPPRESS, help="print results, warnings and errors only"
        )
        if answers:
            self.flag(
                "json",
                action="store_true",
                default=argparse.SUPPRESS,
                help=f"print {answers} as a line of JSON, and nothing else, to stdout",
            )
        self.flag("version", action="version", version=f"nndiff {VERSION}", help="show the version of nndiff and stop")

    def flag(self, name: str, short: str | None = None, also: str | None = None, **options: Any) -> None:
        """Add a flag that can be written as -name and as --name; `also` is another name of it."""
        first = [f"-{short}"] if short else []
        last = [f"--{also}", f"-{also}"] if also else []
        self.parser.add_argument(*first, f"--{name}", f"-{name}", *last, dest=name.replace("-", "_"), **options)

    def switch(self, name: str, default: bool, help: str) -> None:
        """Add the two flags --name and --no-name."""
        self.parser.add_argument(f"--{name}", f"-{name}", dest=name, action="store_true", default=default, help=help)
        self.parser.add_argument(
            f"--no-{name}",
            f"-no-{name}",
            dest=name,
            action="store_false",
            default=argparse.SUPPRESS,
            help=f"switch off --{name}",
        )

    def run(self, work: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None) -> int:
        """Parse the words and do the work; return its exit code, which is 0 if it returns none."""
        if isinstance(argv, Described):
            argv.parser = self.parser
            return 0
        words = sys.argv[1:] if argv is None else list(argv)
        arguments = parsed(self.parser, words)
        debug = getattr(arguments, "debug", False)
        try:
            with handled(STOPPING, raise_stopped), _streams(arguments):
                return work(arguments) or 0
        except NndiffError as error:
            if debug:
                traceback.print_exc()
            tell(f"\nError: {error}")
            return 1
        except BrokenPipeError:  # the reader of the output has ended, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except OSError as error:
            if error.errno not in OF_THE_DISK:
                raise
            if debug:
                traceback.print_exc()
            tell(f"\nError: {explained(error, Path(error.filename or '.'))}")
            return 1
        except MemoryError as error:
            if debug:
                traceback.print_exc()
            remedy = "use fewer workers (-np 1, or -np 0 for none), or a machine with more memory"
            tell(f"\nError: {NndiffError('The memory is full.', found=str(error), remedy=remedy)}")
            return 1
        except KeyboardInterrupt as interrupt:
            stopped = interrupt if isinstance(interrupt, Stopped) else Stopped()
            print(f"\nStopped by {stopped.name}. Finished work is kept. To go on, run", file=sys.stderr)
            print(f"\n  {self.again(words, stopped.saved)}", file=sys.stderr)
            return stopped.code

    def again(self, words: Sequence[str], saved: bool) -> str:
        """Return the command line that goes on where one with these words was stopped."""
        kept = list(words)
        if saved or not self.at_start:
            kept = list(self._without(words, self.at_start))
            if self.go_on and not any(word.lstrip("-") == self.go_on.lstrip("-") for word in kept):
                kept.append(self.go_on)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        module = f"torchrun --nproc_per_node={os.environ.get('LOCAL_WORLD_SIZE', world)} -m nndiff.cli."
        program = self.parser.prog if world == 1 else module + self.parser.prog.removeprefix("nndiff_")
        return " ".join([program, *map(shlex.quote, kept)])

    def _without(self, words: Sequence[str], flags: Sequence[str]) -> Iterator[str]:
        """Yield the words but those of the flags and their values."""
        values = 0.0  # how many of the next words belong to a flag that is left out
        for word in words:
            action = self.parser._option_string_actions.get(word.partition("=")[0])
            if action is None and values > 0:
                values -= 1
            elif action is None or action.dest not in flags:
                values = 0
                yield word
            else:
                values = 0 if "=" in word or action.nargs == 0 else math.inf if action.nargs == "+" else 1


@contextmanager
def _streams(arguments: argparse.Namespace) -> Iterator[None]:
    """Keep stdout for the JSON, and stderr for what is urgent, if that was asked for."""
    arguments.answers = sys.stdout
    with ExitStack() as stack:
        if getattr(arguments, "quiet", False):
            quiet: Any = Quiet(sys.stderr)
            stack.enter_context(redirect_stderr(quiet))
        if as_json(arguments):
            stack.enter_context(redirect_stdout(sys.stderr))
        yield


def as_json(arguments: argparse.Namespace) -> bool:
    return getattr(arguments, "json", False)


def answer(arguments: argparse.Namespace, found: Any, text: Callable[[], str] | None = None) -> None:
    """Print what a command has found out: `text` if there is more to print, or with --json `found` as one line."""
    if as_json(arguments):
        print(json.dumps(encode(found), allow_nan=False), file=arguments.answers, flush=True)
    elif text is not None:
        print(fitted(text(), sys.stdout))


def paths_of(arguments: argparse.Namespace) -> Paths:
    return Paths(*(getattr(arguments, root, None) for root in ("raw", "preprocessed", "results")))


def add_dataset(command: Command) -> None:
    command.flag("dataset", short="d", nargs="+", required=True, metavar="ID", help="dataset numbers or names")


def add_workers(
    command: Command, help: str = "maximum number of worker processes, 0 for none (default: by cores and RAM)"
) -> None:
    command.flag("np", type=_count, default=None, metavar="N", help=help)


def add_crew(command: Command) -> None:
    """Add the flags that say who works on the cases."""
    add_workers(command)
    add_cluster(command)


def add_cluster(command: Command) -> None:
    command.flag(
        "scheduler",
        default="",
        metavar="ADDRESS",
        help="work on the Dask cluster of this scheduler, e.g. tcp://node1:8786; -np is then the most cases at a time",
    )
    command.flag(
        "cluster",
        choices=BATCH_SYSTEMS,
        default="",
        help="let Dask start workers in a batch system; -np says how many, 16 if unset",
    )


def crew(arguments: argparse.Namespace) -> Crew:
    return Crew(arguments.np, arguments.scheduler, arguments.cluster)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more; found {text}")
    return int(text)


def add_configurations(command: Command, unset: str = "bridge ddpm; for generation ddpm prdit") -> None:
    command.flag(
        "configurations",
        short="c",
        nargs="+",
        default=None,
        metavar="NAME",
        help=f"configurations (default: {unset})",
    )


# Flags that some commands have for what others take by its place.
BY_PLACE = {
    "d": "DATASET",
    "dataset": "DATASET",
    "c": "CONFIG",
    "configuration": "CONFIG",
    "f": "FOLD",
    "fold": "FOLD",
    "folds": "FOLDS",
}


class _Parser(argparse.ArgumentParser):
    """A parser whose error about an unknown flag names the nearest known one, in lines that fit the terminal."""

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        super().exit(status, message and fitted(message, sys.stderr))

    def error(self, message: str) -> NoReturn:
        unknown = re.sub("^(unrecognized arguments|ambiguous option): ", "", message).split() or [""]
        if message.startswith("ambiguous") and (place := self._by_place(unknown[0])):
            message = f"unknown flag {unknown[0]}: {place}"
        elif message.startswith("unrecognized") and unknown[0].startswith("-"):
            known = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            message = f"unknown flag {unknown[0]}: {self._by_place(unknown[0]) or self._nearest(unknown[0], known)}"
        elif message.startswith("unrecognized"):
            message = f"too many values: {' '.join(unknown)}{self._in_order()}"
        self.exit(2, f"{self.prog}: {message}\nrun {self.prog} -h for a list of all flags\n")

    def _nearest(self, word: str, known: Sequence[str]) -> str:
        return nearest("--" + word.lstrip("-"), known)

    def _places(self) -> list[str]:
        return [str(action.metavar or action.dest) for action in self._actions if not action.option_strings]

    def _by_place(self, word: str) -> str:
        """Return what to say of a flag of other commands for what is given here by its place, or ""."""
        places = self._places()
        known = BY_PLACE.get(word.lstrip("-")) in places
        return f"give it by its place: {self.prog} {' '.join(places)}" if known else ""

    def _in_order(self) -> str:
        places = " ".join(self._places())
        return f"; expected {places} and flags" if places else "; the flag before them takes fewer values"


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


def parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Return what the words ask for; leave the program if they are wrong."""
    _refuse_nnunet_flags(parser, words)
    return parser.parse_args(words)


NNUNET_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")


def _refuse_nnunet_flags(
    parser: argparse.ArgumentParser, words: Sequence[str], known: Mapping[str, str] = NNUNET_FLAGS
) -> None:
    for before, word in zip(["", *words], words, strict=False):
        if word in NNUNET_CONFIGURATIONS and (before.lstrip("-") in ("c", "configurations") or before.isdecimal()):
            hint = "bridge, ddpm and prdit are configurations of nndiff; patch and spacing are planned for each"
            parser.exit(2, f"{parser.prog}: {word} is a configuration of nnU-Net: {hint}\n")
        flag = "-" + word.lstrip("-").partition("=")[0]
        if word.startswith("-") and flag in known and flag not in parser._option_string_actions:
            parser.exit(2, f"{parser.prog}: nndiff does not have nnU-Net's flag {flag}: {known[flag]}\n")
