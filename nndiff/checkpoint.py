"""The checkpoint: one file with all that is needed to resume a training or to predict.

    checkpoint = { plan, configuration, run, seen, step, weights, ema, optimizer, objectives, history }

Training derives every random number from (seed, step), so these two are the whole random state. The file is written
atomically and read with `weights_only`, so loading it executes no code. Structured values (plan, run, seen, history)
are stored as JSON text and checked as strictly as a plan.json.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from nndiff.plans.migrate import migrated
from nndiff.plans.plan import Configuration, Plan
from nndiff.words import strict_json
from nndiff.words.errors import NndiffError
from nndiff.words.files import atomic
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.paths import is_archive, is_zip
from nndiff.words.strict_json import decode, encode
from nndiff.words.version import versions

FORMAT, VERSION = "nndiff checkpoint", 1
LATEST, BEST = "checkpoint_latest.pt", "checkpoint_best.pt"
BEST_TEXTURE = "checkpoint_best_texture.pt"  # only where another epoch than that of BEST is best for a walk


@dataclass(frozen=True)
class Seen:
    """The value ranges of one source channel in the training data, in the units of the files."""

    name: str
    peaks: tuple[float, float]  # lowest and highest P99.99 of the cases
    minima: tuple[float, float]  # lowest and highest minimum of the cases


@dataclass(frozen=True)
class Run:
    """The settings of a training, fixed at its start: fold, seed, cases and numbers of steps."""

    fold: str  # 0 … or all
    seed: int
    training: tuple[str, ...]
    validation: tuple[str, ...]  # the cases that are measured each epoch
    held_out: bool  # whether no validation case is a training case
    training_steps: int
    epoch_steps: int
    warmup_steps: int
    ema_half_life: int
    samples_a_step: int  # over all ranks and accumulated batches
    # What the training was asked for, beside its plan: seconds, and the run whose weights it began with.
    time_budget: float | None = field(default=None, metadata={strict_json.LEFT_OUT: True})
    begun_with: str = field(default="", metadata={strict_json.LEFT_OUT: True})


@dataclass(frozen=True)
class Step:
    """The figures of one training step."""

    number: int  # counted from 1
    loss: float
    gradient_norm: float
    learning_rate: float
    seconds: float
    waited: float  # seconds of waiting for data, included in `seconds`


@dataclass(frozen=True)
class Epoch:
    """A row of progress.csv. Metrics are None where they are undefined (PSNR in generation)."""

    epoch: int
    step: int
    loss: float
    score: float  # chooses the best checkpoint; higher is better
    psnr: float | None
    ssim: float | None
    mae: float | None
    baseline_psnr: float | None  # PSNR without a network: the source, its local mean or one constant
    learning_rate: float
    gradient_norm: float
    seconds: float  # duration of the epoch, including validation
    waiting: float  # share of the steps' time that was spent waiting for data
    losses: dict[str, float] = field(default_factory=dict)  # validation loss by interval of t, in generation
    mean_losses: dict[str, float] = field(default_factory=dict)  # those of the mean volume
    token_spread: float | None = None  # rms over the tokens of a transformer's last normalised channels
    walk: float | None = None  # dB by which estimates on a walk beat a white open part; chooses the best for texture
    dead: float | None = None  # share of a transformer's hidden channels that are zero for every token


@dataclass
class Checkpoint:
    """The contents of a checkpoint file."""

    plan: Plan
    configuration: str
    run: Run
    seen: tuple[Seen, ...]
    step: int
    weights: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    objectives: dict[str, Tensor] = field(default_factory=dict)  # weights of the training objectives
    history: tuple[Epoch, ...] = field(default=())
    taken: tuple[Step, ...] = field(default=())  # the steps of the epoch that has not ended

    @property
    def planned(self) -> Configuration:
        return self.plan.configurations[self.configuration]


WORDS: dict[str, Any] = {
    "plan": Plan,
    "run": Run,
    "seen": tuple[Seen, ...],
    "history": tuple[Epoch, ...],
    "taken": tuple[Step, ...],
}
ADDED = {"objectives", "taken", "versions"}  # keys that older checkpoints lack
KEYS = {"format", "version", "configuration", "step", "weights", "ema", "optimizer", *WORDS} - ADDED


def save(path: Path, checkpoint: Checkpoint) -> None:
    contents = {"format": FORMAT, "version": VERSION, "versions": versions(), **vars(checkpoint)}
    contents |= {name: json.dumps(encode(contents[name])) for name in WORDS}
    with atomic(path) as part, open(part, "wb") as stream:
        told = _Telling(stream)
        try:
            torch.save(contents, told)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise told.error or error from None


class _Telling:
    """A file that remembers why it could not be written: of a full disk, PyTorch says "unexpected pos 64 vs 0"."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.stream.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.stream.flush()


def load(path: Path, remedy: str | None = None, verify: bool = True) -> Checkpoint:
    """Return the checkpoint on the CPU; its tensors are mapped from the file, so unused ones are not read.

    `verify` reads the file once to check it.
    """
    contents = _contents(path, remedy, verify)
    try:
        stored = {name: json.loads(contents[name]) for name in WORDS if name in contents}
        stored["plan"] = migrated(stored["plan"])
        words = {name: decode(WORDS[name], value, name) for name, value in stored.items()}
    except (ValueError, TypeError, RecursionError) as error:
        raise _not_whole(path, error) from None
    except NndiffError as error:
        raise error.at(
            path,
            prefix="This version of nndiff cannot read the plan in the checkpoint. ",
            remedy="use the version of nndiff that wrote it",
        ) from None
    names = ("configuration", "step", "weights", "ema", "optimizer", "objectives")
    rest = {name: contents[name] for name in names if name in contents}
    return Checkpoint(**words, **rest)


def steps_left(fold: Path) -> int:
    """Return how many steps a fold still has to train; 0 if it has no last checkpoint, as in a model passed on."""
    path = fold / LATEST
    if not path.exists():
        return 0
    found = load(path, verify=False)
    left = found.run.training_steps - found.step
    return max(1, left) if found.taken else left  # the last epoch may have all its steps, but no validation


def demand_fitting(network: torch.nn.Module, weights: Mapping[str, Tensor], where: Path) -> None:
    """Refuse weights of another network, with an error that names the first weight that differs."""
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if own != found:
        wrong = sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name))
        raise NndiffError(
            "The weights do not fit the network.",
            expected=f"{wrong[0]} {own.get(wrong[0], 'absent')}",
            found=f"{found.get(wrong[0], 'absent')} ({len(wrong)} of {len(own)} differ)",
            where=where,
            remedy="use the configuration that this checkpoint was trained with",
        )


def seen_of(fingerprint: Fingerprint) -> tuple[Seen, ...]:
    """Return the value ranges of the source channels of a dataset; prediction compares new scans with them."""
    rows = []
    for channel, name in enumerate(fingerprint.channel_names):
        peaks = [case.source[channel].peak for case in fingerprint.cases]
        minima = [case.source[channel].minimum for case in fingerprint.cases]
        rows.append(Seen(name, (min(peaks), max(peaks)), (min(minima), max(minima))))
    return tuple(rows)


def of_another(run: str | Path, results: Path, fold: str) -> Path:
    """Return what `run` names: a file, a fold's folder, a configuration trained in this fold, or an archive."""
    given, sibling = Path(run), results / run / f"fold_{fold}"
    if is_zip(given) or is_archive(given):
        return given
    folder = sibling if sibling.is_dir() else given
    return folder / BEST if folder.is_dir() or folder.suffix != ".pt" else folder


def _demand_intact(path: Path) -> None:
    """Refuse a file whose parts do not have the checksums that PyTorch stored beside them; it does not look itself."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} has changed since it was written")


def _contents(path: Path, remedy: str | None, verify: bool) -> dict[str, Any]:
    if not path.is_file():
        raise NndiffError(f"{path.name} is missing.", where=path, remedy=remedy)
    try:
        if verify:
            _demand_intact(path)
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged pickle can raise any exception
        raise _not_whole(path, error) from None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise NndiffError(f"{path.name} is not a checkpoint of nndiff.", where=path, remedy="check the path")
    if contents.get("version") != VERSION or set(contents) - ADDED != KEYS:
        raise NndiffError(
            f"{path.name} was written by another version of nndiff.",
            expected=f"version {VERSION}",
            found=f"version {contents.get('version')}",
            where=path,
            remedy="use the version of nndiff that wrote it",
        )
    return contents


def _not_whole(path: Path, error: Exception) -> NndiffError:
    return NndiffError(
        f"The checkpoint {path.name} is damaged or incomplete.",
        found=str(error).partition("\n")[0][:120],
        where=path,
        remedy="copy it again if it is a copy; or use the other checkpoint in the same folder",
    )
