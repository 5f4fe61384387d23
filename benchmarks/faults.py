"""What was tried to lose or damage work, and what survived.

    python -m benchmarks.faults [--quick] [--only kills …] [--seed 0] [-o FILE.csv]

On Linux. One row each:

    kills    every command in turn is killed (SIGKILL) at a random moment, and run again. It survives if the second run
             ends with the files that an undisturbed run makes, no half file is left, and no worker outlives the command
    signals  a training is told to stop (SIGINT, SIGTERM, SIGUSR1, SIGHUP) at a random moment. It survives if it ends
             within 30 s with the exit code of that signal and, once resumed, has the same bits as an undisturbed one
    images   damaged images (fuzz.py)
    texts    damaged texts, prepared cases and checkpoints of nndiff's own (fuzz_texts.py)
    writes   the tests that let every write and rename fail as on a full disk
    ranks    the tests of trainings by several processes, of which some die, hang or are stopped
    Slurm    the tests in a real Slurm, as root and where it is installed

It takes about an hour on two cores; --quick takes ten minutes. The exit code is 0 if all survived.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import fuzz, fuzz_texts, soak
from nndiff import checkpoint
from nndiff.words.files import PART
from nndiff.words.stopping import BY_HAND, REQUEUE
from nndiff.words.text_table import text_table

HERE = Path(__file__).parents[1]
STEPS = 30
PATIENCE = 30.0  # s in which a stopped training ends, and its workers after a kill
TIMED = ("predict.json", "log.txt", "progress.csv", "inference.json", ".lock")  # hold times
PICTURES = (".png", ".log")
SIGNALS = {signal.SIGINT: BY_HAND, signal.SIGTERM: REQUEUE, signal.SIGUSR1: REQUEUE, signal.SIGHUP: REQUEUE}
TESTS = {
    "writes": ["tests/end_to_end/test_every_write.py"],
    "ranks": ["tests/training/test_distributed.py"],
    "Slurm": ["tests/slurm"],
}


@dataclass(frozen=True)
class Trial:
    """One attempt, in words, and why it did not survive; "" if it did."""

    what: str
    lost: str


# ---------------------------------------------------------------- commands


@dataclass(frozen=True)
class Command:
    name: str
    words: tuple[str, ...]  # {root} is the folder of everything
    first: tuple[str, ...] = ()  # further words of a run that begins
    again: tuple[str, ...] = ()  # further words of one that goes on
    goes_on_from: str = ""  # the file without which a second run begins too

    def started(self, root: Path, again: bool = False) -> subprocess.Popen[str]:
        goes_on = again and (not self.goes_on_from or any(root.rglob(self.goes_on_from)))
        words = [word.format(root=root) for word in (*self.words, *(self.again if goes_on else self.first))]
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=HERE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
            preexec_fn=_hear_all,
        )


def _hear_all() -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)  # nohup and shells may have them ignored


ROOTS = ("--raw", "{root}/raw", "--preprocessed", "{root}/preprocessed")
TRAINED = ("--results", "{root}/results", "-device", "cpu")
SETTINGS = ("--set", *soak.TINY, f"training_steps={STEPS}")
COMMANDS = (
    Command("plan and preprocess", ("nndiff.cli.plan_and_preprocess", "-d", "1", "-c", "bridge", "-np", "1", *ROOTS)),
    Command(
        "train",
        ("nndiff.cli.train", "1", "bridge", "0", *ROOTS, *TRAINED, "-np", "1", "--no_tune"),
        first=SETTINGS,
        again=("--c",),
        goes_on_from=checkpoint.LATEST,
    ),
    Command("tune", ("nndiff.cli.tune", "1", "bridge", "0", *ROOTS, *TRAINED, "--time_budget", "2s")),
    Command(
        "predict",
        (
            "nndiff.cli.predict",
            *("-i", f"{{root}}/raw/{soak.DATASET}/imagesTs", "-o", "{root}/out", "-device", "cpu", "-f", "0"),
            *("-m", f"{{root}}/results/{soak.DATASET}/bridge", "--disable_progress_bar"),
        ),
        again=("--continue_prediction",),
    ),
    Command(
        "evaluate",
        (
            "nndiff.cli.evaluate",
            *(f"{{root}}/raw/{soak.DATASET}/targetsTs", "{root}/out", "-o", "{root}/measured", "-np", "1"),
        ),
    ),
)
TRAIN = COMMANDS[1]


@dataclass(frozen=True)
class Whole:
    """An undisturbed run of every command: what each found, what it left, and how long it took."""

    root: Path  # always the same: paths may be stored in files
    before: Mapping[str, Path]
    after: Mapping[str, Mapping[str, str]]
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, folder: Path) -> Whole:
        root = folder / "root"
        soak.write_dataset(root / "raw" / soak.DATASET, cases=5)
        before, after, seconds = {}, {}, {}
        for command in COMMANDS:
            before[command.name] = shutil.copytree(root, folder / "before" / command.name)
            start = time.perf_counter()
            process = command.started(root)
            _, words = process.communicate()
            if process.returncode:
                raise SystemExit(f"{command.name}: {words}")
            seconds[command.name] = time.perf_counter() - start
            after[command.name] = state(root)
        return cls(root, before, after, seconds)

    def fresh(self, command: Command) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.before[command.name], self.root)


def state(root: Path) -> dict[str, str]:
    """Return a digest of every file; of checkpoints what they hold, of files with times and of pictures their names."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if not path.is_file() or path.name == ".lock":
            continue
        if path.name in TIMED or path.suffix in PICTURES:
            found[name] = ""
        elif path.suffix == ".pt":
            found[name] = _digest_of(checkpoint.load(path))
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _digest_of(found: checkpoint.Checkpoint) -> str:
    digest = hashlib.sha256(f"{found.step} {found.run}".encode())
    for part in (found.weights, found.ema, found.optimizer):
        _add(digest, part)
    return digest.hexdigest()


def _add(digest: Any, part: Any) -> None:
    if isinstance(part, Mapping):
        for key in sorted(part, key=str):
            digest.update(str(key).encode())
            _add(digest, part[key])
    elif isinstance(part, list | tuple):
        for each in part:
            _add(digest, each)
    elif hasattr(part, "numpy"):
        digest.update(np.ascontiguousarray(part.numpy()).tobytes())
    else:
        digest.update(repr(part).encode())


def difference(whole: Mapping[str, str], found: Mapping[str, str]) -> str:
    """Return in words how two states differ; "" if they do not."""
    for name in sorted(whole.keys() | found.keys()):
        if name not in found or name not in whole:
            return f"{name} is {'missing' if name in whole else 'left'}"
        if whole[name] != found[name]:
            return f"{name} is another"
    return ""


# ---------------------------------------------------------------- kills and signals


def kills(whole: Whole, count: int, generator: np.random.Generator) -> Iterator[Trial]:
    for number in range(count):
        command = COMMANDS[number % len(COMMANDS)]
        moment = float(generator.uniform(0, whole.seconds[command.name]))
        whole.fresh(command)
        process = command.started(whole.root)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.communicate()
        yield Trial(f"{command.name}, killed after {moment:.1f} s", _survivors(process.pid) or _ended(whole, command))


def _survivors(session: int) -> str:
    """Return in words which processes of a session have not ended in time."""
    end = time.monotonic() + PATIENCE
    while living := [number for number in _processes() if _session(number) == session]:
        if time.monotonic() > end:
            for number in living:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            return f"{len(living)} of its workers outlived it"
        time.sleep(0.1)
    return ""


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _session(number: int) -> int:
    with suppress(OSError):
        words = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return 0 if words[0] == "Z" else int(words[3])
    return 0


def _ended(whole: Whole, command: Command) -> str:
    """Run a command again, and return in words what is lost."""
    process = command.started(whole.root, again=True)
    _, words = process.communicate()
    if process.returncode:
        return f"the second run ended with {process.returncode}: {words.strip()[-300:]}"
    if halves := [path.name for path in whole.root.rglob(f"{PART}*")]:
        return f"{halves[0]} is left"
    return difference(whole.after[command.name], state(whole.root))


def signals(whole: Whole, count: int, generator: np.random.Generator) -> Iterator[Trial]:
    for number in range(count):
        signum, code = list(SIGNALS.items())[number % len(SIGNALS)]
        moment = float(generator.uniform(0, whole.seconds[TRAIN.name]))
        whole.fresh(TRAIN)
        process = TRAIN.started(whole.root)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        early = not any(whole.root.rglob("log.txt"))  # before Python hears signals
        process.send_signal(signum)
        what = f"{signal.Signals(signum).name} after {moment:.1f} s"
        try:
            _, words = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            yield Trial(what, f"no end within {PATIENCE:g} s")
            continue
        right = process.returncode in (0, code) or (early and process.returncode == -signum)
        lost = "" if right else f"it ended with {process.returncode}, not {code}: {words.strip()[-300:]}"
        yield Trial(what, lost or _ended(whole, TRAIN))


# ---------------------------------------------------------------- files, and what is a test already


def images(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    for name, path, outcome in fuzz.tried(count, seed, folder / "images"):
        yield Trial(name, f"{outcome.kind}: {path}" if outcome.kind in fuzz.BAD else "")


def texts(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    files = fuzz_texts.sound(folder / "texts" / "sound")
    for name, path, outcome in fuzz_texts.tried(files, count, seed, folder / "texts"):
        yield Trial(name, f"{outcome.kind}: {path}" if outcome.kind in fuzz_texts.BAD else "")


def tests(paths: Sequence[str]) -> Iterator[Trial]:
    """Run tests of the suite; one that is skipped is not tried."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=line", "-p", "no:cacheprovider", *paths]
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    found = re.findall(r"^(PASSED|FAILED|ERROR) (\S+)(?: - (.*))?$", run.stdout, re.MULTILINE)
    for kind, name, why in found:
        yield Trial(name, "" if kind == "PASSED" else why or kind)
    if run.returncode and not any(kind != "PASSED" for kind, *_ in found):
        yield Trial(" ".join(paths), run.stdout.strip()[-300:])


def rows_of(only: Sequence[str], quick: bool, seed: int, folder: Path) -> Iterator[tuple[str, Iterator[Trial]]]:
    """Yield the name of every row with its trials."""
    whole: list[Whole] = []

    def run() -> Whole:
        if not whole:
            whole.append(Whole.of(folder / "whole"))
        return whole[0]

    generator = np.random.default_rng(seed)
    trials: dict[str, Callable[[], Iterator[Trial]]] = {
        "kills": lambda: kills(run(), 10 if quick else 100, generator),
        "signals": lambda: signals(run(), 4 if quick else 20, generator),
        "images": lambda: images(500 if quick else 5000, seed, folder),
        "texts": lambda: texts(200 if quick else 2000, seed, folder),
        **{name: (lambda paths=paths: tests(paths)) for name, paths in TESTS.items()},  # type: ignore[misc]
    }
    for name, begin in trials.items():
        if name in only:
            yield name, begin()


def main(argv: Sequence[str] | None = None) -> int:
    names = ("kills", "signals", "images", "texts", *TESTS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the kills and files, and no Slurm")
    parser.add_argument("--only", nargs="+", choices=names, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=None, metavar="FILE.csv")
    arguments = parser.parse_args(argv)
    only = arguments.only or [name for name in names if name != "Slurm" or not arguments.quick]
    lines, lost = [["", "tried", "survived"]], 0
    with tempfile.TemporaryDirectory() as folder:
        for name, trials in rows_of(only, arguments.quick, arguments.seed, Path(folder)):
            tried = survived = 0
            for trial in trials:
                tried, survived = tried + 1, survived + (not trial.lost)
                if trial.lost:
                    print(f"{name}: {trial.what}: {trial.lost}", flush=True)
            lines.append([name, str(tried), str(survived)])
            lost += tried - survived
            print(f"{name}: {tried} tried, {survived} survived", file=sys.stderr, flush=True)
    print(text_table(lines))
    if arguments.output is not None:
        with arguments.output.open("w", newline="") as stream:
            csv.writer(stream).writerows(lines)
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
