"""Tests of nndiff: it lists all commands and runs each, and shells complete the words of all of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from nndiff.cli import completion, main
from nndiff.cli.command import Command
from nndiff.cli.commands import BY_WORD, ROWS
from nndiff.words.version import VERSION

SCRIPTS = {point.name: point for point in distribution("nndiff").entry_points.select(group="console_scripts")}
every_row = pytest.mark.parametrize("row", ROWS, ids=BY_WORD)


def test_the_table_holds_every_command_once() -> None:
    points = {row.name: f"{row.module}:main" for row in ROWS} | {"nndiff": "nndiff.cli.main:main"}
    assert points == {point.name: point.value for point in SCRIPTS.values()}
    assert len(BY_WORD) == len(ROWS)


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_the_list_names_each_command_in_order_and_fits(words: list[str], run_cli) -> None:
    code, out, err = run_cli(main.main, *words)
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    rows = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line.split()[0] in BY_WORD]
    assert rows == list(BY_WORD)
    assert out.index("nndiff doctor") < out.index("nndiff demo") < out.index("nndiff plan_and_preprocess -h")


def test_the_module_answers_at_once_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from nndiff.cli.main import main\n"
        "main([]); print('LOADED', [m for m in ('torch', 'numpy', 'SimpleITK', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("LOADED []\n")


def test_python_m_nndiff_is_nndiff() -> None:
    def ran(*words: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-m", "nndiff", *words], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    assert ran() == (0, main.listed() + "\n", "")
    assert ran("--version") == (0, f"nndiff {VERSION}\n", "")
    code, out, err = ran("train")
    assert (code, out) == (2, "")
    assert "nndiff_train: the following arguments are required" in err


@every_row
@pytest.mark.parametrize("flag", ["-version", "--version"])
def test_every_command_tells_its_version(row, flag: str, run_cli) -> None:
    assert run_cli(row.main(), flag) == (0, f"nndiff {VERSION}\n", "")


@every_row
def test_a_word_after_nndiff_runs_the_command_of_that_name(row, run_cli) -> None:
    for word in (row.word, row.name):
        code, out, _ = run_cli(main.main, word, "-h")
        assert code == 0
        assert out.startswith(f"usage: {row.name} ")


@pytest.mark.parametrize(
    ("word", "near"), [("trian", "train"), ("--versoin", "unknown flag"), ("complete", "completion")]
)
def test_an_unknown_word_names_the_nearest(word: str, near: str, run_cli) -> None:
    code, out, err = run_cli(main.main, word)
    assert (code, out) == (2, "")
    assert near in err


def test_the_exit_code_is_that_of_the_work(run_cli) -> None:
    for code in (0, 1, None):
        assert run_cli(lambda argv, code=code: Command("tells", "").run(lambda _: code, argv)).code == (code or 0)
    assert run_cli(main.main, "plan", "-d", 1).code == 1


# ---------------------------------------------------------------- completion


def shell(name: str, code: str, folder: Path) -> list[str]:
    """Return the lines that a shell prints after it has read its completion."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    (folder / "completion").write_text(completion.script(name))
    flags = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    before = "compdef() { :; }\n" if name == "zsh" else ""
    words = [program, *flags, "-c", f"{before}source {folder / 'completion'}\n{code}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=folder, env={"HOME": str(folder)})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def by_bash(folder: Path, *words: str) -> list[str]:
    code = f"COMP_WORDS=({' '.join(map(repr, words))}); COMP_CWORD={len(words) - 1}\n_nndiff\n"
    return shell("bash", code + '[ ${#COMPREPLY[@]} = 0 ] || printf "%s\\n" "${COMPREPLY[@]}"', folder)


def by_zsh(folder: Path, *words: str) -> list[str]:
    """Return what would be offered; the shell itself chooses what fits the word."""
    code = 'compadd() { shift; print -l -- "$@"; }; _describe() { print -l -- "${commands[@]%%:*}"; }\n'
    code += "_files() { print FILES; }\n"
    code += f"words=({' '.join(map(repr, words))}); CURRENT={len(words)}; _nndiff"
    return [line for line in shell("zsh", code, folder) if line.startswith(words[-1]) or line == "FILES"]


def by_fish(folder: Path, *words: str) -> list[str]:
    return [line.partition("\t")[0] for line in shell("fish", f"complete -C {' '.join(words)!r}", folder)]


every_shell = pytest.mark.parametrize("complete", [by_bash, by_zsh, by_fish])


@every_shell
def test_a_shell_completes_commands_flags_and_choices(complete, tmp_path: Path) -> None:
    assert set(complete(tmp_path, "nndiff", "")) >= {*BY_WORD, "completion"}
    assert complete(tmp_path, "nndiff", "tr") == ["train"]
    assert sorted(complete(tmp_path, "nndiff", "completion", "")) == ["bash", "fish", "zsh"]
    for begin in (("nndiff", "train"), ("nndiff_train",)):
        assert complete(tmp_path, *begin, "--time") == ["--time_budget"]
        assert sorted(complete(tmp_path, *begin, "--device", "c")) == ["cpu", "cuda"]
        assert complete(tmp_path, *begin, "1", "bridge", "0", "--device", "m") == ["mps"]
    # The flags are those of the command, whatever words follow it.
    assert complete(tmp_path, "nndiff", "submit", "--steps", "train", "--no_t") == []


@pytest.mark.parametrize("complete", [by_bash, by_zsh])
def test_a_flag_of_several_values_offers_them_for_each(complete, tmp_path: Path) -> None:
    assert complete(tmp_path, "nndiff_train", "-device", "m") == ["mps"]
    assert complete(tmp_path, "nndiff_submit", "--steps", "plan", "tr") == ["train"]
    assert complete(tmp_path, "nndiff_submit", "--steps", "plan", "--dry") == ["--dry-run"]
    assert "cuda" not in complete(tmp_path, "nndiff_train", "--device", "cpu", "c")


def test_bash_completes_behind_an_equals_sign_and_leaves_files_to_itself(tmp_path: Path) -> None:
    assert by_bash(tmp_path, "nndiff_train", "--device", "=", "cu") == ["cuda"]
    assert by_bash(tmp_path, "nndiff_train", "--device", "=") == ["cuda", "cpu", "mps"]
    assert by_bash(tmp_path, "nndiff_predict", "-i", "sca") == []
    offered = shell("bash", "complete -p nndiff_train nndiff", tmp_path)
    assert all("-o default" in line and "-F _nndiff" in line for line in offered)
    assert len(offered) == 2


@every_row
def test_completion_offers_every_flag_of_every_command(row, tmp_path: Path) -> None:
    own = completion.flags(row.parser())
    shown = [spelling for flag in own for spelling in flag.shown]
    assert set(by_bash(tmp_path, row.name, "-")) == set(shown) >= {"-h", "--help", "--raw", "--version"}
    assert "-help" not in shown
    for name in completion.SHELLS:
        text = completion.script(name)
        for spelling in shown:
            assert spelling.lstrip("-") in text
        assert "%(" not in text
        assert "SUPPRESS" not in text


def test_an_unknown_shell_is_refused(run_cli) -> None:
    code, _, err = run_cli(main.main, "completion", "csh")
    assert code == 2
    assert "bash" in err
    code, out, _ = run_cli(main.main, "completion", "bash")
    assert (code, out) == (0, completion.script("bash"))
