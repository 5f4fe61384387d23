"""Laws of progress: a pipe gets a few whole lines, a terminal a bar, and who is quiet gets nothing."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from nndiff.resources import progress
from nndiff.resources.progress import REST, Lines, bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_pipe_gets_a_line_now_and_then(clock: list[float], capsys: Any) -> None:
    with bar(100, "Preprocess", "case") as shown:
        for _ in range(100):
            clock[0] += REST / 10
            shown.update()
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert "\r" not in err
    assert len(lines) == 10
    assert lines[0] == "Preprocess: 10 of 100 cases, about 135 s left"
    assert lines[-1] == "Preprocess: 100 of 100 cases in 150 s"


def test_it_counts_what_is_set_and_names_what_is_at_work(clock: list[float], capsys: Any) -> None:
    with bar(4, "Predict", "step") as shown:
        shown.set_postfix_str("case_7")
        shown.n = 2
        clock[0] = 2 * REST
        shown.update()
    assert "3 of 4 steps, about 10 s left (case_7)" in capsys.readouterr().err


def test_shares_are_counted_and_shown_to_two_decimals(clock: list[float], capsys: Any) -> None:
    with bar(2, "Predict", "step") as shown:
        for _ in range(3):
            clock[0] += REST
            shown.update(1 / 3)
        shown.update(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Predict: 0.33 of 2 steps, about 75 s left"
    assert lines[2] == "Predict: 1 of 2 steps, about 45 s left"
    assert lines[-1].startswith("Predict: 1.5 of 2 steps")


def test_a_bar_shows_shares_to_two_decimals_too(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bar(4, "Predict", "step") as shown:
        shown.update(1 / 3)
        shown.n = 2 + 2 / 3
    assert "| 2.67/4 [" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_and_the_quiet_nothing(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with bar(3, "Predict", "step", quiet=True) as shown:
        shown.update()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bar(3, "Predict", "step") as shown:
        assert not isinstance(shown, Lines)
    assert isinstance(bar(3, "Predict", "step", quiet=True), Lines)
