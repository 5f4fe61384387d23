"""Write documentation/reference/commands.md from the commands themselves: python -m nndiff.cli.reference

    setup.py's entry points ─▶ main of each command ─▶ its Command ─▶ synopsis and table of flags
                               docstring of its module ─────────────▶ description, and text below the table

A page that a docstring names by its path, as in "See documentation/how-to/train.md.", becomes a link with the page's
title. A test compares the page with what this module returns.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nndiff.cli.command import Command, Described
from nndiff.words.files import atomic

PROGRAM = "nndiff"
ROOT = Path(__file__).parents[2]  # of a checkout
PAGE = ROOT / "documentation" / "reference" / "commands.md"
DEFAULT = re.compile(r"\s*\(default: (?P<value>.*)\)$")
BAR = "\\|"  # a bar inside a cell
LINK = re.compile(r"documentation/(?P<page>[\w/-]+\.md)(?P<anchor>#[\w-]+)?")

HEAD = """\
# Commands

<!-- Written by python -m nndiff.cli.reference: change the flags and docstrings of the commands, not this page. -->

`nndiff` lists the commands; `nndiff train` is `nndiff_train`. Every long flag works with one dash or two. `-h` explains
all flags of a command.

Exit codes: 0 success; 1 an error that you can correct (explained in words; `--debug` adds the traceback); 2 an
invalid command line; 130 stopped by Ctrl-C; 75 stopped by SIGTERM, SIGUSR1 or SIGHUP, as schedulers do it: the command
can be run again. In the last two cases the message is the command line that goes on.

Results are printed to stdout, everything else to stderr. In a pipe every line stays whole.

The stages are also functions: `nndiff.plan`, `preprocess`, `train`, `tune`, `predict` and `evaluate`. See
documentation/how-to/notebook.md.
"""


@dataclass(frozen=True)
class Entry:
    """A command of setup.py."""

    name: str
    module: str
    function: str

    @property
    def words(self) -> list[str]:
        """Return the paragraphs of the module's docstring, the first one as a sentence without the command's name."""
        text = importlib.import_module(self.module).__doc__ or ""
        first, *others = text.removeprefix(f"{self.name}: ").strip("\n").split("\n\n")
        return [first[:1].upper() + first[1:], *others]

    @property
    def parser(self) -> argparse.ArgumentParser:
        asked = Described()
        getattr(importlib.import_module(self.module), self.function)(asked)
        assert asked.parser is not None
        return asked.parser


def entries() -> list[Entry]:
    """Return the commands of setup.py, in its order, but the one that lists them."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "console_scripts":
                    found = [Entry(*re.split(r"\s*[=:]\s*", text)) for text in ast.literal_eval(value)]
                    return [entry for entry in found if entry.name != PROGRAM]
    return []


def page() -> str:
    """Return the text of the page."""
    found = entries()
    overview = [f"| [`{entry.name}`](#{entry.name}) | {' '.join(entry.words[0].split())} |" for entry in found]
    shared = list(_rows(Command("", "").parser))
    parts = [
        HEAD,
        "\n".join(["| command | purpose |", "|---|---|", *overview, ""]),
        f"## Flags of all commands\n\n{_table(shared)}",
        *(_section(entry, shared) for entry in found),
    ]
    return LINK.sub(_link, "\n".join(parts))


def _section(entry: Entry, shared: Sequence[str]) -> str:
    first, *others = entry.words
    parser = entry.parser
    rows = [row for row in _rows(parser) if row not in shared]
    return "\n\n".join([f"## {entry.name}", first, f"`{_synopsis(parser)}`", _table(rows).rstrip(), *others]) + "\n"


def _synopsis(parser: argparse.ArgumentParser) -> str:
    """Return the command with all that it demands."""
    needed = [action for action in parser._actions if action.required]
    words = [f"{_flags(action)[0]} {_values(action)}" for action in needed if action.option_strings]
    places = [_values(action) for action in needed if not action.option_strings]
    return " ".join([parser.prog, *places, *words])


def _table(rows: Sequence[str]) -> str:
    return "\n".join(["| flag | values | default | meaning |", "|---|---|---|---|", *rows, ""])


def _rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the row of each argument."""
    explain = parser._get_formatter()._expand_help
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        text = explain(action)
        given = DEFAULT.search(text)
        default = "required" if action.required else given["value"] if given else "on" if action.default is True else ""
        named = ", ".join(f"`{flag}`" for flag in _flags(action)) or f"`{_values(action)}`"
        values = f"`{_values(action)}`" if action.option_strings and action.nargs != 0 else ""
        cells = [named, values, default, DEFAULT.sub("", text)]
        yield re.sub(" +", " ", f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |")


def _flags(action: argparse.Action) -> list[str]:
    """Return each spelling of a flag once: the short one, and the long one with two dashes."""
    known = action.option_strings
    return [flag for flag in known if flag.startswith("--") or f"-{flag}" not in known]


def _values(action: argparse.Action) -> str:
    """Return what follows a flag, as in `ID …`, `Z Y X` or `cuda|cpu|mps`."""
    shown = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if isinstance(shown, tuple):
        return " ".join(shown)
    if isinstance(action.nargs, int):
        return " ".join([shown] * action.nargs)
    return f"{shown} …" if action.nargs == "+" else shown


def _link(found: re.Match[str]) -> str:
    """Return a link, relative to the page, whose text is the title of the page that was found."""
    title = (ROOT / "documentation" / found["page"]).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
    return f"[{title}](../{found['page']}{found['anchor'] or ''})"


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description="Write the page of all commands.").parse_args(argv)
    with atomic(PAGE) as path:
        path.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
