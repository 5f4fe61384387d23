"""Tests of checkpoints: exact round trips, refusal of other files, and no execution of code in a file."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nndiff import checkpoint
from nndiff.assemble import build_network
from nndiff.checkpoint import Checkpoint, Epoch, Seen, Step, demand_fitting
from nndiff.training.loop import Trainer
from nndiff.training.run import train
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART
from nndiff.words.strict_json import encode
from tests.training.tiny import batch_of, prepare, request, run_of, state_of, tiny_plan, trainer_of

PLAN = tiny_plan()
EPOCHS = (
    Epoch(1, 3, 0.123456789012345, -1e-30, None, None, None, None, 1e-4, 2.5, 0.1, 1.0),
    Epoch(2, 6, 1 / 3, 44.0, 30.5, 0.7, 0.01, 28.0, 1e-6, 1e9, 3600.0, 0.0),
)
TAKEN = (Step(7, 0.1, 1 / 3, 1e-5, 0.25, 0.0),)
SEEN = (Seen("PET", (0.1, 1e5), (-1.0, 0.0)), Seen("CT", (3071.0, 3071.0), (-1024.0, -1000.0)))


def trained() -> Trainer:
    trainer = trainer_of(PLAN)
    for _ in trainer.steps([[batch_of(PLAN, [0, 1])]]):
        pass
    return trainer


def checkpoint_of(trainer: Trainer, **words: Any) -> Checkpoint:
    own = {"0.second.weight": torch.randn(2, 3)}
    given = {"seen": SEEN, "history": EPOCHS, "taken": TAKEN, "objectives": own}
    return state_of(trainer, PLAN, **{**given, **words})


@pytest.fixture
def saved(tmp_path):
    """saved(**words) → (what was saved, where)."""

    def save(**words: Any) -> tuple[Checkpoint, Path]:
        contents, path = checkpoint_of(trained(), **words), tmp_path / "fold_0" / "checkpoint_latest.pt"
        checkpoint.save(path, contents)
        return contents, path

    return save


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


# ---------------------------------------------------------------- there and back


def test_every_field_comes_back_exactly(saved) -> None:
    contents, path = saved()
    found = checkpoint.load(path)
    for field in fields(Checkpoint):
        assert same(getattr(found, field.name), getattr(contents, field.name)), field.name
    assert type(found.history[0].score) is float
    assert found.planned == PLAN.configurations["bridge"]
    assert [path.name for path in path.parent.iterdir()] == ["checkpoint_latest.pt"]


def test_a_trainer_put_back_takes_the_same_steps(saved) -> None:
    trainer = trained()
    _, path = saved(objectives={})
    found = checkpoint.load(path)
    other = trainer_of(PLAN, seed=9)
    other.run = trainer.run
    other.restore(found)
    batches = [[batch_of(PLAN, [2, 3])], [batch_of(PLAN, [4, 5])]]
    assert [step.loss for step in trainer.steps(batches)] == [step.loss for step in other.steps(batches)]
    assert same(trainer.weights, other.weights)
    assert same(checkpoint.load(path).weights, found.weights)  # the file was not written through


def test_a_checkpoint_from_before_objectives_had_weights_has_none(saved) -> None:
    contents, path = saved()
    rewritten(path, objectives=None)
    found = checkpoint.load(path)
    assert found.objectives == {}
    assert same(found.weights, contents.weights)


def test_an_unwritable_state_leaves_the_earlier_checkpoint(saved, monkeypatch) -> None:
    _, path = saved()
    before = path.read_bytes()

    def full(contents: Any, part: Any) -> None:
        part.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(NndiffError, match="disk is full"):
        checkpoint.save(path, checkpoint_of(trained()))
    assert path.read_bytes() == before
    assert not any(name.startswith(PART) for name in os.listdir(path.parent))


# ---------------------------------------------------------------- what is refused


def refused(path: Path, words: str) -> NndiffError:
    with pytest.raises(NndiffError, match=words) as refusal:
        checkpoint.load(path, "train it first")
    assert refusal.value.where == path
    return refusal.value


@pytest.mark.parametrize("room", [0, 100, 5000, 50000])
def test_a_disk_that_fills_while_weights_are_written_is_said_so(saved, monkeypatch, room) -> None:
    """PyTorch hides it behind "unexpected pos 64 vs 0"; whether it does depends on which write fails."""
    contents, path = saved()
    whole = path.read_bytes()
    assert len(whole) > room

    class Filling(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(
        checkpoint, "open", lambda part, mode: io.BufferedWriter(Filling(part, mode), 64), raising=False
    )
    with pytest.raises(NndiffError, match="The disk is full"):
        checkpoint.save(path, contents)
    assert path.read_bytes() == whole
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_missing_file_is_said_with_its_remedy(tmp_path) -> None:
    assert refused(tmp_path / "checkpoint_best.pt", "checkpoint_best.pt is missing").remedy == "train it first"
    (tmp_path / "checkpoint_best.pt").mkdir()
    refused(tmp_path / "checkpoint_best.pt", "is missing")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_no_whole_checkpoint(saved, share) -> None:
    _, path = saved()
    os.truncate(path, int(share * path.stat().st_size))
    assert "the other checkpoint" in str(refused(path, "is damaged or incomplete").remedy)


def test_damage_anywhere_in_the_head_is_refused_or_harmless(saved) -> None:
    """Whatever bytes are hit, never another kind of error."""
    _, path = saved()
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    places: list[object] = []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, 4000, 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            checkpoint.load(path)
        except NndiffError as error:
            places.append(error.where)
    assert len(places) > 20
    assert set(places) == {path}


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(saved) -> None:
    """The weights too, which PyTorch reads without a look at the checksums that it has stored."""
    contents, path = saved()
    whole, rng, refusals = path.read_bytes(), np.random.default_rng(1), 0
    for place in rng.integers(0, len(whole), 250):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
        try:
            found = checkpoint.load(path)
        except NndiffError:
            refusals += 1
            continue
        assert same(vars(found), vars(contents)), f"byte {place} of {len(whole)}"
    assert refusals > 100


@pytest.mark.parametrize(
    "contents",
    [
        b"not a checkpoint at all\n",
        b"",
        b"PK\x03\x04",
        b"\x80\x02}q\x00.",
        pickle.dumps({"a": 1}),
        b"\x1f\x8b" + b"0" * 99,
    ],
)
def test_another_kind_of_file_is_no_whole_checkpoint(tmp_path, contents) -> None:
    (tmp_path / "x.pt").write_bytes(contents)
    refused(tmp_path / "x.pt", "x.pt is damaged or incomplete")


@pytest.mark.parametrize(
    "contents", [{}, {"state_dict": {}}, [1, 2], torch.ones(3), {"format": "other", "version": 1}], ids=str
)
def test_a_torch_file_of_somebody_else_is_not_ours(tmp_path, contents) -> None:
    torch.save(contents, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "not a checkpoint of nndiff")


def rewritten(path: Path, **words: Any) -> None:
    """With some entries changed, or taken out by None."""
    contents = torch.load(path, weights_only=True) | words
    torch.save({key: value for key, value in contents.items() if value is not None}, path)


@pytest.mark.parametrize("words", [{"version": 2}, {"version": None}, {"ema": None}, {"extra": 1}], ids=str)
def test_another_version_is_told_to_use_its_own_nndiff(saved, words) -> None:
    _, path = saved()
    rewritten(path, **words)
    assert "version of nndiff that wrote it" in str(refused(path, "another version of nndiff").remedy)


@pytest.mark.parametrize("name", checkpoint.WORDS)
def test_words_that_this_version_does_not_read_are_named(saved, name) -> None:
    contents, path = saved()
    word = encode(getattr(contents, name))
    strange = {**word, "new_field": 1} if isinstance(word, dict) else [{**word[0], "new_field": 1}]
    rewritten(path, **{name: json.dumps(strange)})
    refused(path, "Unknown key 'new_field'")


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path) -> None:
    plan = tiny_plan(("bridge", "ddpm"), training_steps=1)
    prepare(tmp_path, plan)
    asked = request(tmp_path, plan, go_on=True)
    checkpoint.save(asked.folder / checkpoint.LATEST, checkpoint_of(trained(), plan=plan, configuration="ddpm"))
    with pytest.raises(NndiffError, match=r"another configuration.\n.*expected bridge; found ddpm"):
        train(asked)


def test_weights_of_another_network_are_refused_by_name(tmp_path) -> None:
    small, wide = (
        PLAN.configurations["bridge"].network,
        tiny_plan(network={"width": 8}).configurations["bridge"].network,
    )
    network, other = build_network(small, (1, 1, 1)), build_network(wide, (1, 1, 1))
    demand_fitting(network, network.state_dict(), tmp_path)
    with pytest.raises(NndiffError, match=r"do not fit the network.\n.*expected core\S+ \(.*\); found \(.*differ\)"):
        demand_fitting(network, other.state_dict(), tmp_path)
    missing = dict(network.state_dict())
    missing.pop("core.stem.weight")
    with pytest.raises(NndiffError, match=r"core.stem.weight \(.*found absent \(1 of"):
        demand_fitting(network, missing, tmp_path)
    with pytest.raises(NndiffError, match=r"expected stranger absent; found \(1,\)"):
        demand_fitting(network, {**network.state_dict(), "stranger": torch.ones(1)}, tmp_path)


# ---------------------------------------------------------------- what is never run


class Malicious:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.trace),))


@pytest.mark.parametrize("where", ["file", "entry", "weights", "old format", "bare pickle"])
def test_nothing_in_a_file_is_ever_run(saved, tmp_path, where) -> None:
    _, path = saved()
    trace = tmp_path / "was_here"
    if where == "file":
        torch.save(Malicious(trace), path)
    elif where == "entry":
        rewritten(path, plan=Malicious(trace))
    elif where == "weights":
        rewritten(path, weights={"core.stem.weight": Malicious(trace)})
    elif where == "old format":
        torch.save({"format": checkpoint.FORMAT, "x": Malicious(trace)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(Malicious(trace)))
    refused(path, "is damaged or incomplete")
    assert not trace.exists()
    if where == "file":  # the trap does work
        with zipfile.ZipFile(path) as archive:
            name = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
            pickle.loads(archive.read(name))
        assert trace.exists()


def test_a_run_of_other_words_is_stored_exactly(saved) -> None:
    run = run_of(PLAN.configurations["bridge"], fold="all", held_out=False, validation=("ä b", "c"), seed=2**40)
    _, path = saved(run=run, history=())
    found = checkpoint.load(path)
    assert (found.run, found.history) == (run, ())
