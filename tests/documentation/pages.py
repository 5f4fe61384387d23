"""The pages of the project as its tests see them: blocks of code, headings, links, and the commands in them."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

from nndiff.cli.reference import ROOT, entries

LONG = "<!-- long -->"  # stands before a block that the tests parse but do not run
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
TARGET = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|\\.")
GLOB = re.compile(r"[\[\]*?]")
MODULE = re.compile(r"\bpython -m ((?:benchmarks|dataset_conversion)\.\w+)")
ASSIGNED = re.compile(r"\w+=.*")
ENDS = set("();<>|&")  # characters that end a command in a shell


@dataclass(frozen=True)
class Block:
    line: int  # in the page, of its first line, counted from 1
    text: str
    long: bool  # whether it is marked as one that takes long

    @property
    def lines(self) -> list[tuple[int, str]]:
        """Return the number and text of each line; a line that ends in a backslash goes on in the next one."""
        found: list[tuple[int, str]] = []
        for number, line in enumerate(self.text.splitlines(), self.line):
            if found and found[-1][1].endswith("\\"):
                found[-1] = found[-1][0], found[-1][1][:-1] + line.strip()
            else:
                found.append((number, line))
        return found


@dataclass(frozen=True)
class Page:
    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        return _parsed(self.text)[0]

    @property
    def prose(self) -> list[tuple[int, str]]:
        """Return the number and text of each line outside blocks."""
        return _parsed(self.text)[1]

    @property
    def spans(self) -> Iterator[tuple[int, str]]:
        """Yield the line and text of each piece of code within a sentence or a table; a bar of a table is a bar."""
        for number, line in self.prose:
            yield from ((number, text.replace("\\|", "|")) for text in SPAN.findall(line))

    @property
    def links(self) -> Iterator[tuple[int, str]]:
        """Yield the line and target of each link and picture."""
        for number, line in self.prose:
            yield from ((number, target) for target in TARGET.findall(SPAN.sub("", line)))

    @property
    def anchors(self) -> set[str]:
        """Return the anchors of the page's headings, as GitHub computes them."""
        found: dict[str, int] = {}
        names = set()
        for _, line in self.prose:
            if heading := re.fullmatch(r"#{1,6} +(.*?) *#*", line):
                words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
                name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
                names.add(f"{name}-{found[name]}" if name in found else name)
                found[name] = found.get(name, 0) + 1
        return names


def pages() -> list[Page]:
    others = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "dataset_conversion/README.md")]
    return [Page(path) for path in (*others, *sorted((ROOT / "documentation").rglob("*.md")))]


@cache
def _parsed(text: str) -> tuple[list[Block], list[tuple[int, str]]]:
    """Return the blocks of a page, fenced or indented by four after an empty line, and its other lines."""
    blocks: list[Block] = []
    prose: list[tuple[int, str]] = []
    lines, i = text.splitlines(), 0
    last = ""  # line of text that is not empty

    def block(first: int, rows: Sequence[str]) -> None:
        blocks.append(Block(first + 1, "\n".join(rows), last.strip() == LONG))

    while i < len(lines):
        if lines[i].lstrip().startswith("```"):
            end = next(j for j in range(i + 1, len(lines)) if lines[j].lstrip().startswith("```"))
            block(i + 1, lines[i + 1 : end])
            i, last = end + 1, ""
        elif _indented(lines[i]) and (i == 0 or not lines[i - 1].strip()):
            end = i
            while end < len(lines) and (_indented(lines[end]) or not lines[end].strip()):
                end += 1
            block(i, lines[i:end])
            i, last = end, ""
        else:
            prose.append((i + 1, lines[i]))
            i, last = i + 1, lines[i] if lines[i].strip() else last
    return blocks, prose


def _indented(line: str) -> bool:
    return line.startswith("    ") and bool(line.strip())


# ---------------------------------------------------------------- commands


def split(line: str) -> list[list[str]]:
    """Return the words of each command in a line of a shell, without comments and variables set before a command."""
    shell = shlex.shlex(line, posix=True, punctuation_chars=True)
    shell.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in shell:
        if set(word) <= ENDS:
            commands.append([])
        elif commands[-1] or not ASSIGNED.fullmatch(word):
            commands[-1].append(word)
    return [words for words in commands if words]


def module_of(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the module whose `main` a command runs, and its arguments; None for other programs."""
    program = words[0].rpartition("/")[2]
    known = {entry.name: entry.module for entry in entries()}
    listed = words[1:] if program == "nndiff" else words[3:] if list(words[1:3]) == ["-m", "nndiff"] else None
    if listed is not None:  # nndiff train is nndiff_train; nndiff alone and nndiff completion have no parser
        name = f"nndiff_{listed[0]}" if listed else ""
        return (known[name], list(listed[1:])) if name in known else None
    if program.startswith("nndiff_"):
        return known.get(program, program), list(words[1:])
    if program in ("python", "torchrun") and "-m" in words:
        at = words.index("-m") + 1
        module, arguments = words[at], list(words[at + 1 :])
        if module.partition(".")[0] in ("nndiff", "benchmarks", "dataset_conversion"):
            return module, arguments
    return None


class _Accepted(Exception):
    pass


def refusal(module: str, arguments: Sequence[str], whole: bool = True) -> str:
    """Return what the parser of a module's `main` says against the arguments; the program itself does not run.

    With whole=False arguments may be missing, and values may be placeholders, as where a command is only mentioned.
    """
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, args: Sequence[str] | None = None, *_: object) -> None:
        for action in () if whole else parser._actions:
            action.required, action.type = False, action.type if action.choices else None
            action.nargs = action.nargs if action.nargs == 0 else "?" if action.nargs is None else "*"
        parse(parser, args)
        raise _Accepted

    said = io.StringIO()
    try:
        main = importlib.import_module(module).main
        if not re.search(r"\.parse_args\(|\bCommand\(", inspect.getsource(inspect.getmodule(main) or main)):
            return "it has no parser, so its arguments cannot be judged"
    except ModuleNotFoundError as error:
        return f"there is no {error.name}"
    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", only_parse),
        mock.patch("sys.argv", [module, *arguments]),
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            main()
        except _Accepted:
            return ""
        except SystemExit as stopped:
            return said.getvalue().strip() if stopped.code else ""
    return "its parser was not reached"


def expands(line: str) -> bool:
    """Return whether some shell would take a word of the line for a pattern of file names, as zsh takes x=[1,1]."""
    bare = QUOTED.sub("", line.partition(" #")[0])
    return bool(GLOB.search(bare))
