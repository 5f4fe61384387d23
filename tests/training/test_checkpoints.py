"""The two best checkpoints: of one step, and of a walk where that is another epoch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nndiff import checkpoint
from nndiff.checkpoint import BEST, BEST_TEXTURE, Epoch
from nndiff.training import checkpoints


def epoch(step: int, score: float, walk: float | None) -> Epoch:
    return Epoch(step, step, 0.1, score, None, None, None, None, 1e-3, 1.0, 1.0, 0.0, walk=walk)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Checkpoints that hold nothing but their step."""

    def save(job: Any, trainer: Any, history: tuple[Epoch, ...], name: str) -> None:
        (tmp_path / name).write_text(str(history[-1].step))

    monkeypatch.setattr(checkpoints, "save", save)
    monkeypatch.setattr(checkpoint, "load", lambda path: SimpleNamespace(step=int(path.read_text())))
    return tmp_path


def held(folder: Path) -> tuple[int | None, int | None]:
    """Return the steps of the best of one step and of the best of a walk."""
    best, texture = (int(p.read_text()) if p.exists() else None for p in (folder / BEST, folder / BEST_TEXTURE))
    return best, texture


def after(
    folder: Path, *rows: tuple[float, float | None], repeated: bool = False
) -> list[tuple[int | None, int | None]]:
    job: Any = SimpleNamespace(request=SimpleNamespace(folder=folder), ranks=SimpleNamespace(first=True))
    history: tuple[Epoch, ...] = ()
    found = []
    for step, (score, walk) in enumerate(rows, start=1):
        history = (*history, epoch(step, score, walk))
        for _ in range(2 if repeated else 1):  # killed before the latest checkpoint, an epoch is repeated
            checkpoints.save_best(job, None, history)  # type: ignore[arg-type]
        found.append(held(folder))
    return found


ROWS = ((30.0, 1.0), (31.0, 0.5), (30.5, 2.0), (32.0, 1.5), (33.0, 3.0), (32.0, 3.5))
KEPT = [(1, None), (2, 1), (2, 3), (4, 3), (5, None), (5, 6)]


@pytest.mark.parametrize("repeated", [False, True])
def test_each_end_keeps_its_best_epoch_and_one_file_serves_both_where_it_can(folder: Path, repeated: bool) -> None:
    assert after(folder, *ROWS, repeated=repeated) == KEPT


def test_a_model_without_a_walk_keeps_one(folder: Path) -> None:
    assert after(folder, (30.0, None), (31.0, None), (29.0, None)) == [(1, None), (2, None), (2, None)]


def test_what_is_kept_for_a_walk_is_the_best_of_all_before_not_the_first(folder: Path) -> None:
    assert after(folder, (30.0, 1.0), (31.0, 2.0), (32.0, 1.5)) == [(1, None), (2, None), (3, 2)]
