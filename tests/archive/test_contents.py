"""Laws of the way there and back: what prediction uses of a fold is the same before and after."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nndiff import archive, folds
from nndiff.archive import parts_of, read_fold
from nndiff.archive.parts import Manifest, Part, Parts
from nndiff.checkpoint import BEST, Seen
from nndiff.folds import Fold
from nndiff.plans.plan import digest
from nndiff.words.errors import NndiffError
from nndiff.words.paths import MANIFEST
from tests.archive.made import NAMES, contents, exported, model

GOLDEN = Path(__file__).parent.parent / "golden" / "runs"
RUNS = sorted(path.name for path in GOLDEN.iterdir() if (path / "checkpoint_latest.pt").exists())


class Kept:
    """Parts in memory."""

    def __init__(self, parts: dict[str, bytes]):
        self.path, self.parts = Path("memory.zip"), parts

    def chunks(self, name, most):  # type: ignore[no-untyped-def]
        yield self.parts[name]


def back(fold: Fold, half: bool = False) -> Fold:
    made = parts_of(fold, 0, half)
    listed = {name: Part(hashlib.sha256(data).hexdigest(), len(data)) for name, data in made.items()}
    return read_fold(Parts(Kept(made), Manifest("", 1, listed, {}), b""), fold.name)[0]  # type: ignore[arg-type]


def same(one: Fold, other: Fold) -> None:
    """All that prediction uses, to the last bit; of the plan the one configuration."""
    for name in ("name", "configuration", "step", "seen", "planned", "digest"):
        assert getattr(one, name) == getattr(other, name), name
    assert digest(one.plan.preparation(one.configuration)) == digest(other.plan.preparation(other.configuration))
    for name in ("anchor", "target_range", "file_ending", "dataset", "task", "crop"):
        assert getattr(one.plan, name) == getattr(other.plan, name), name
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name])
    assert (one.tuned is None) == (other.tuned is None)
    if one.tuned is not None and other.tuned is not None:
        assert replace(one.tuned, chosen_on=(), reported_on=()) == other.tuned


@pytest.mark.parametrize("configuration", ["bridge", "ddpm", "prdit"])
@pytest.mark.parametrize("tuned", [True, False])
def test_a_fold_comes_back_as_it_was(tmp_path: Path, configuration: str, tuned: bool) -> None:
    (path,) = model(tmp_path, tuned=tuned, folds=(3,), configuration=configuration).glob(f"*/{BEST}")
    fold = folds.read(path)
    same(fold, back(fold))
    assert parts_of(back(fold), 0) == parts_of(fold, 0), "there and back again changes nothing"


@pytest.mark.parametrize("run", RUNS)
def test_a_fold_of_an_earlier_version_comes_back_as_it_is_read_today(run: str) -> None:
    fold = replace(folds.read(GOLDEN / run / "checkpoint_latest.pt"), name="0")
    seen = tuple(Seen(channel.name, (1.0, 2.0), (0.0, 0.0)) for channel in fold.plan.source_channels)
    fold = replace(fold, seen=seen)
    same(fold, back(fold))


def test_half_of_a_half_is_the_same_half(tmp_path: Path) -> None:
    (path,) = model(tmp_path, folds=(0,)).glob(f"*/{BEST}")
    fold = folds.read(path)
    once = back(fold, half=True)
    assert any(not torch.equal(value, once.weights[name]) for name, value in fold.weights.items())
    for name, value in fold.weights.items():
        torch.testing.assert_close(once.weights[name], value, rtol=2**-11, atol=2**-25)
        assert once.weights[name].dtype == torch.float32
    same(once, back(once, half=True))
    whole, halves = (parts_of(fold, 0, half)["fold_0.safetensors"] for half in (False, True))
    assert len(halves) < 0.6 * len(whole)


def test_no_name_of_a_case_and_no_other_configuration_is_inside(tmp_path: Path) -> None:
    path = exported(tmp_path)
    assert not [name for name in NAMES if name.encode() in path.read_bytes()]
    (saved,) = model(tmp_path / "other", folds=(0,)).glob(f"*/{BEST}")
    fold = folds.read(saved)
    plan = replace(
        fold.plan,
        configurations=fold.plan.configurations | {"mine": fold.planned},
        decisions=(*fold.plan.decisions, replace(fold.plan.decisions[-1], configuration="mine", name="secret")),
        seals=fold.plan.seals | {"mine": "0"},
    )
    text = parts_of(replace(fold, plan=plan), 0)["fold_0.json"]
    assert b"mine" not in text
    assert text == parts_of(fold, 0)["fold_0.json"]


# ---------------------------------------------------------------- which folds


def test_the_folds_of_an_archive_are_numbered_ones_first_and_in_their_order(tmp_path: Path) -> None:
    folder = model(tmp_path, tuned=False, folds=(2, 10, "all"))
    with archive.opened(exported(tmp_path, folder=folder, folds=("all", "10", "2"))) as parts:
        assert archive.folds_in(parts) == ["2", "10", "all"]
        assert archive.choose(parts, None) == ["2", "10"]
        assert archive.choose(parts, ["10"]) == ["10"]
        with pytest.raises(NndiffError, match="no fold 3") as caught:
            archive.choose(parts, ["3"])
        assert "2, 10, all" in caught.value.expected
    with archive.opened(exported(tmp_path, "all.zip", folder=folder, folds=("all",))) as parts:
        assert archive.choose(parts, None) == ["all"]


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = model(tmp_path)
    one, two = (exported(tmp_path, name, folder=folder) for name in ("one.zip", "two.zip"))
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as file:
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert list(contents(one)) == [
        "MODEL_CARD.md",
        *(f"fold_{k}.{kind}" for k in (0, 1) for kind in ("json", "safetensors")),
        MANIFEST,
    ]
