"""The page of commands says what the commands' own parsers say."""

from __future__ import annotations

from nndiff.cli import reference
from nndiff.cli.command import Command


def test_the_page_is_what_the_parsers_say() -> None:
    there = reference.PAGE.read_text(encoding="utf-8")
    assert there == reference.page(), "flags or docstrings have changed; run: python -m nndiff.cli.reference"


def test_every_command_has_its_section() -> None:
    text = reference.page()
    assert reference.entries()
    shared = {action.dest for action in Command("", "").parser._actions}
    for entry in reference.entries():
        section = text.partition(f"\n## {entry.name}\n")[2].partition("\n## ")[0]
        for action in entry.parser._actions:
            for flag in action.option_strings:
                assert f"`{flag}`" in section or f"`-{flag}`" in section or action.dest in shared, (entry.name, flag)
