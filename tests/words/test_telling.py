"""Laws of what a command tells: no line is longer than the terminal, nothing is lost, and a pipe gets whole lines."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nndiff.words.telling import Quiet, counted, fitted, tell


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


WORDS = st.lists(st.text("abcdefgh12:,.", min_size=1, max_size=30), max_size=40)


@given(WORDS, st.integers(0, 8))
def test_a_terminal_gets_lines_that_fit_and_every_word(words: list[str], indent: int) -> None:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        text = " " * indent + " ".join(words)
        lines = fitted(text, Terminal()).split("\n")
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    assert max(map(len, lines)) <= 80
    assert " ".join(lines).split() == text.split()
    assert all(line.startswith(" " * (indent + 4)) for line in lines[1:])


@pytest.mark.usefixtures("eighty")
def test_a_path_is_not_broken_and_a_line_that_fits_stays_as_it_is() -> None:
    path = "/data/" + "x" * 100
    assert path in fitted(f"Wrote {path}", Terminal())
    table = "  a    b     c"
    assert fitted(table, Terminal()) == table


def test_a_pipe_gets_the_text_as_it_is(capsys: Any) -> None:
    text = "word " * 100
    assert fitted(text, io.StringIO()) == text
    tell(text)
    assert capsys.readouterr() == ("", text + "\n")


def test_who_is_quiet_still_warns() -> None:
    stream = io.StringIO()
    quiet: Any = Quiet(stream)
    for part in ("step 1\nWarn", "ing: grain\n", "\r 50 %\r 60 %", "\n  Warning: blur\nError: no\nstep 2\n"):
        assert quiet.write(part) == len(part)
    assert stream.getvalue() == "Warning: grain\n  Warning: blur\nError: no\n"
    assert not quiet.isatty()


def test_who_is_quiet_hears_the_whole_warning() -> None:
    stream = io.StringIO()
    quiet: Any = Quiet(stream)
    quiet.write("Warning: no mask\n  remedy: write one\nstep 1\n  of 3\n")
    assert stream.getvalue() == "Warning: no mask\n  remedy: write one\n"


@pytest.mark.parametrize(("number", "words"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases")])
def test_things_are_counted_in_words(number: int, words: str) -> None:
    assert counted(number, "case") == words
