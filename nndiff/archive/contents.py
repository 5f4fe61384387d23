"""The contents of an archive's parts: a fold as a text and its weights, and the way back, with all checks.

    fold ─▶ fold_K.json, fold_K.safetensors ─▶ fold         equal in all that prediction uses

No training case is named: the lists of cases in a checkpoint and in a tuning result stay behind. What is known of the
training images are the ranges that prediction compares new scans with (`Seen`), and what the plan was made from.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from nndiff.archive import parts as files
from nndiff.archive.parts import LARGEST_TEXT, REMEDY, Parts
from nndiff.checkpoint import Seen, demand_fitting
from nndiff.folds import Fold, shapes_of
from nndiff.plans.migrate import migrated
from nndiff.plans.plan import Plan
from nndiff.sampling import inference
from nndiff.sampling.inference import digest_of
from nndiff.words.errors import NndiffError
from nndiff.words.fields import Checked, at_least
from nndiff.words.files import dumps
from nndiff.words.strict_json import decode, encode

CARD = "MODEL_CARD.md"
TEXT = re.compile(r"fold_(all|0|[1-9]\d{0,5})\.json")
STORED = (torch.float32, torch.float16)
HEAD, HEAD_A_WEIGHT = 1 << 16, 1 << 10  # bytes of names and shapes before the weights: at most, and per weight


@dataclass(frozen=True)
class Record(Checked):
    """What an archive says about one fold; its tuning result stands beside these fields, as `tuned`."""

    fold: str  # 0 … or all
    configuration: str
    step: Annotated[int, at_least(0)]
    steps: Annotated[int, at_least(0)]  # of the whole training
    steps_left: Annotated[int, at_least(0)]  # of the training, which may not have ended
    seen: tuple[Seen, ...]
    plan: Plan


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Parts]:
    """Yield the parts of a model, of which the card is verified already; each fold is verified when it is read."""
    with files.opened(path) as parts:
        folds_in(parts)
        card_of(parts)
        yield parts


def parts_of(fold: Fold, steps_left: int, half: bool = False) -> dict[str, bytes]:
    """Return the parts of one fold: name → bytes. `half` stores its weights as float16."""
    stored = {name: value.contiguous() for name, value in fold.weights.items()}
    if half:
        stored = {name: value.half() for name, value in stored.items()}
    data = encode(Record(fold.name, fold.configuration, fold.step, fold.steps, steps_left, fold.seen, _alone(fold)))
    if fold.tuned is not None:
        weights = digest_of({name: value.float() for name, value in stored.items()})
        data["tuned"] = encode(replace(fold.tuned, weights=weights, chosen_on=(), reported_on=()))
    text, weights_name = _names(fold.name)
    return {text: f"{dumps(data)}\n".encode(), weights_name: bytes_of(stored)}


def folds_in(parts: Parts) -> list[str]:
    """Return the folds of an archive; refuse parts that belong to none."""
    found = [match[1] for name in parts.manifest.parts if (match := TEXT.fullmatch(name))]
    found.sort(key=lambda fold: (not fold.isdecimal(), int(fold) if fold.isdecimal() else 0))
    known = {CARD, *(name for fold in found for name in _names(fold))}
    if missing := sorted(known - parts.manifest.parts.keys()) or ([] if found else ["fold_0.json"]):
        raise NndiffError("A part of the archive is missing.", expected=missing[0], where=parts.path, remedy=REMEDY)
    if strange := sorted(parts.manifest.parts.keys() - known):
        raise NndiffError(
            "The archive has a part that no model has.", found=ascii(strange[0]), where=parts.path, remedy=REMEDY
        )
    return found


def choose(parts: Parts, wanted: Sequence[str] | None) -> list[str]:
    """Return the folds that are wanted; if `wanted` is None, all numbered ones, or fold all if there are none."""
    there = folds_in(parts)
    for fold in wanted or ():
        if fold not in there:
            raise NndiffError(
                f"The archive has no fold {fold}.",
                expected=f"one of {', '.join(there)}",
                where=parts.path,
                remedy="choose another fold with -f, or leave out -f",
            )
    return list(wanted or [fold for fold in there if fold.isdecimal()] or there)


def card_of(parts: Parts) -> str:
    return parts.read(CARD, LARGEST_TEXT).decode(errors="replace")


def read_fold(parts: Parts, name: str) -> tuple[Fold, int]:
    """Return a fold, and how many steps its training had left when it was exported."""
    text, weights_name = _names(name)
    try:
        record, data = _record(parts.read_json(text))
        _demand_sound(record, name)
        planned = record.plan.configurations[record.configuration]
        tuned = None if data is None else inference.decoded(data, planned.sampler, "tuned")
        network = shapes_of(planned, parts.path / text)
    except (TypeError, ValueError, RecursionError) as error:
        raise NndiffError(f"{text} is damaged.", found=str(error)[:120], where=parts.path, remedy=REMEDY) from error
    except NndiffError as error:
        raise error.at(parts.path / text, remedy=REMEDY) from None
    path = parts.path / weights_name
    weights = _weights(parts, weights_name, network.state_dict())
    demand_fitting(network, weights, path)
    digest = digest_of(weights)
    if tuned is not None:
        inference.demand_weights(tuned, digest, parts.path / text, REMEDY)
    fold = Fold(
        name=record.fold,
        plan=record.plan,
        configuration=record.configuration,
        step=record.step,
        steps=record.steps,
        seen=record.seen,
        weights=weights,
        tuned=tuned,
        digest=digest,
        path=path,
    )
    return fold, record.steps_left


def _names(fold: str) -> tuple[str, str]:
    return f"fold_{fold}.json", f"fold_{fold}.safetensors"


def _alone(fold: Fold) -> Plan:
    """Return the plan with this configuration only."""
    plan, name = fold.plan, fold.configuration
    return replace(
        plan,
        configurations={name: fold.planned},
        decisions=tuple(row for row in plan.decisions if row.configuration in ("", name)),
        seals={part: seal for part, seal in plan.seals.items() if part in ("", name)},
    )


def _record(data: object) -> tuple[Record, object]:
    """Return the record and the JSON of the tuning result, or None."""
    if not isinstance(data, dict):
        return decode(Record, data), None
    rest = {key: value for key, value in data.items() if key != "tuned"}
    return decode(Record, rest | ({"plan": migrated(rest["plan"])} if "plan" in rest else {})), data.get("tuned")


def _demand_sound(record: Record, name: str) -> None:
    if record.fold != name:
        raise NndiffError("The text of a fold belongs to another fold.", expected=name, found=record.fold)
    record.plan.demand_configuration(record.configuration)
    if len(record.seen) != len(record.plan.source_channels):
        raise NndiffError(
            "'seen' must have one entry per source channel.",
            expected=len(record.plan.source_channels),
            found=len(record.seen),
        )


def _weights(parts: Parts, name: str, shapes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights as float32, of a file that is not larger than those of this network can be."""
    numbers = sum(math.prod(value.shape) for value in shapes.values())
    data = parts.read(name, 4 * numbers + HEAD + HEAD_A_WEIGHT * len(shapes))
    try:
        stored = tensors_of(data)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        what = f"{name} is damaged or no safetensors file."
        raise NndiffError(what, found=str(error)[:120], where=parts.path / name, remedy=REMEDY) from error
    if strange := sorted(each for each, value in stored.items() if value.dtype not in STORED):
        raise NndiffError(
            "The weights have a number format that nndiff does not export.",
            expected="float32 or float16",
            found=f"{stored[strange[0]].dtype} in {strange[0]}",
            where=parts.path / name,
            remedy=REMEDY,
        )
    return {each: value.float() for each, value in stored.items()}
