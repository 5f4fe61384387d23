"""Tests of what every command does: results on stdout, the rest on stderr, advice to those who know nnU-Net."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
from typing import Any

import pytest

from nndiff.cli import predict, train
from nndiff.cli.command import Command, answer
from nndiff.words.errors import NndiffError
from nndiff.words.spread import Spread
from nndiff.words.telling import tell

TEXT = """
import sys
from nndiff.cli.command import Command
sys.exit(Command("tells", "Much.").run(lambda arguments: [print("word " * 100) for _ in range(5000)], []))
"""


def test_head_is_no_error_with_a_traceback() -> None:
    process = subprocess.Popen([sys.executable, "-c", TEXT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=20) == 1
    assert errors == ""


def _work(arguments: argparse.Namespace) -> None:
    print("Wrote a file")
    tell("step 1")
    tell("Warning: grain")
    for number in (1.0, 2.0):
        answer(arguments, {"spread": Spread(number, 1.0)}, lambda: "a table")


def test_json_is_all_that_stdout_holds_a_line_for_each_answer(capsys: Any) -> None:
    command = Command("asks", "Much.", answers="the figures")
    assert command.run(_work, []) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["Wrote a file", "a table", "a table"]
    assert command.run(_work, ["--json"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["spread"]["mean"] for line in out.splitlines()] == [1, 2]
    assert "Wrote a file" in err
    assert "a table" not in out + err


def test_quiet_leaves_results_warnings_and_errors(capsys: Any) -> None:
    def fails(arguments: argparse.Namespace) -> None:
        _work(arguments)
        raise NndiffError("It does not fit.")

    assert Command("asks", "Much.").run(fails, ["-quiet"]) == 1
    out, err = capsys.readouterr()
    assert "a table" in out
    assert "step 1" not in err
    assert "Warning: grain" in err
    assert "Error: It does not fit." in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "words",
    [
        ["1", "bridge", "0", "--disable_checkpointing"],  # a flag of nnU-Net
        ["1", "3d_fullres", "0"],
        ["1", "bridge", "0", "-np", "many", "--" + "very_" * 12 + "wrong"],
        ["1", "bridge", "0", "--raw", "/one", "--preprocessed", "/other", "--results", "/third"],  # none is there
    ],
)
def test_on_a_terminal_of_80_columns_a_refusal_fits_word_for_word(words, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    told = {}
    for kind in (Terminal, io.StringIO):
        monkeypatch.setattr(sys, "stderr", told.setdefault(kind, kind()))
        with contextlib.suppress(SystemExit):
            assert train.main(words) == 1
    narrow, whole = (told[kind].getvalue() for kind in (Terminal, io.StringIO))
    assert max(map(len, narrow.splitlines())) <= 80
    assert narrow.split() == whole.split()


@pytest.mark.parametrize(
    ("main", "words", "hint"),
    [
        (train.main, ["1", "3d_fullres", "0"], "bridge, ddpm and prdit"),
        (train.main, ["1", "bridge", "0", "--val"], "after every epoch"),
        (train.main, ["1", "bridge", "0", "--npz"], "--save_samples"),
        (train.main, ["1", "bridge", "0", "--disable_checkpointing"], "always written"),
        (predict.main, ["-d", "1", "-c", "3d_fullres", "-i", "a", "-o", "b"], "bridge, ddpm and prdit"),
        (predict.main, ["-d", "1", "-i", "a", "-o", "b", "--disable_tta"], "mirrors nothing"),
        (predict.main, ["-d", "1", "-i", "a", "-o", "b", "--save_probabilities"], "--save_uncertainty"),
    ],
)
def test_who_knows_nnunet_is_told_what_to_use(main: Any, words: list[str], hint: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err


def test_a_folder_may_have_the_name_of_a_configuration_of_nnunet(capsys: Any) -> None:
    assert predict.main(["-m", "model", "-i", "2d", "-o", "3d_fullres"]) == 1
    assert "There is no such model" in capsys.readouterr().err
