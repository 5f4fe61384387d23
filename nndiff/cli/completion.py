"""nndiff completion: print a script with which a shell completes commands, flags and their values.

eval "$(nndiff completion bash)"     in ~/.bashrc; with zsh in ~/.zshrc, after compinit
nndiff completion fish | source      in ~/.config/fish/config.fish

The script is generated from the parsers of all commands and calls no program when it completes a word.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nndiff.cli.command import Command
from nndiff.cli.commands import BY_WORD, PREFIX, ROWS

NONE, ONE, MANY = 0, 1, 2  # values that a flag takes; MANY: up to the next flag


@dataclass(frozen=True)
class Flag:
    """A flag as a shell knows it."""

    spellings: tuple[str, ...]
    takes: int  # NONE | ONE | MANY
    choices: tuple[str, ...]
    help: str

    @property
    def shown(self) -> list[str]:
        """The spellings to offer: one with two dashes where a word has both."""
        return [each for each in self.spellings if each.startswith("--") or "-" + each not in self.spellings]


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff completion", __doc__ or "")
    command.parser.add_argument("shell", choices=tuple(SHELLS), metavar="SHELL", help="bash, zsh or fish")
    return command.run(lambda arguments: print(script(arguments.shell), end=""), argv)


def script(shell: str) -> str:
    """Return the script of a shell."""
    return "\n".join(SHELLS[shell]({row.word: flags(row.parser()) for row in ROWS})) + "\n"


def flags(parser: argparse.ArgumentParser) -> list[Flag]:
    """Return the flags of a parser."""
    return [_flag(action) for action in parser._actions if action.option_strings]


def _flag(action: argparse.Action) -> Flag:
    takes = NONE if action.nargs == 0 else ONE if action.nargs in (None, 1, "?") else MANY
    words = " ".join((action.help or "").split())
    return Flag(tuple(action.option_strings), takes, tuple(map(str, action.choices or ())), words)


# ---------------------------------------------------------------- bash, and zsh through its words

CHOSEN = """\
    case "$command $flag" in
{cases}
    esac"""
OFFERED = """\
    case "$command" in
{cases}
    esac"""


def _bash(known: dict[str, list[Flag]]) -> Iterator[str]:
    yield "# Completion of nndiff in bash."
    yield "_nndiff() {"
    yield "    local cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[0]##*/} first=1 flag= far=0 i values= flags="
    yield '    [ "$cur" = "=" ] && cur='
    yield '    if [ "$command" = nndiff ]; then'
    yield '        if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'            COMPREPLY=($(compgen -W "{_words()}" -- "$cur"))'
    yield "            return"
    yield "        fi"
    yield f"        command={PREFIX}${{COMP_WORDS[1]#{PREFIX}}} first=2"
    yield "    fi"
    yield "    for ((i = COMP_CWORD - 1; i >= first; i--)); do  # the flag that the word belongs to"
    yield '        [ "${COMP_WORDS[i]}" = "=" ] && continue'
    yield "        case ${COMP_WORDS[i]} in -*) flag=${COMP_WORDS[i]}; break;; esac"
    yield "        far=1"
    yield "    done"
    yield from _cases(known)
    yield '    if [ "${cur#-}" != "$cur" ]; then COMPREPLY=($(compgen -W "$flags" -- "$cur"))'
    yield '    elif [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$cur"))'
    yield "    else COMPREPLY=(); fi  # names of files"
    yield "}"
    yield f"complete -o default -o bashdefault -F _nndiff nndiff {' '.join(row.name for row in ROWS)}"


def _zsh(known: dict[str, list[Flag]]) -> Iterator[str]:
    names = ["nndiff", *(row.name for row in ROWS)]
    yield f"#compdef {' '.join(names)}"
    yield "# Completion of nndiff in zsh."
    yield "_nndiff() {"
    yield "    local cur=${words[CURRENT]} command=${words[1]:t} first=2 flag= far=0 i values= flags="
    yield '    if [ "$command" = nndiff ]; then'
    yield '        if [ "$CURRENT" -eq 2 ]; then'
    yield "            local -a commands"
    yield f"            commands=({' '.join(_quoted(f'{word}:{does}') for word, does in _described())})"
    yield "            _describe command commands"
    yield "            return"
    yield "        fi"
    yield f"        command={PREFIX}${{words[2]#{PREFIX}}} first=3"
    yield "    fi"
    yield "    for ((i = CURRENT - 1; i >= first; i--)); do  # the flag that the word belongs to"
    yield "        case ${words[i]} in -*) flag=${words[i]}; break;; esac"
    yield "        far=1"
    yield "    done"
    yield from _cases(known)
    yield '    if [ "${cur#-}" != "$cur" ]; then compadd -- ${=flags}'
    yield '    elif [ -n "$values" ]; then compadd -- ${=values}'
    yield "    else _files; fi"
    yield "}"
    yield f"compdef _nndiff {' '.join(names)}"


def _cases(known: dict[str, list[Flag]]) -> Iterator[str]:
    """Yield the two tables, in words that bash and zsh share: values by command and flag, flags by command."""
    chosen = []
    for word, own in known.items():
        for flag in own:
            if flag.choices:
                names = "|".join(f'"{PREFIX}{word} {spelling}"' for spelling in flag.spellings)
                near = "" if flag.takes == MANY else '[ "$far" = 0 ] && '
                chosen.append(f'        {names}) {near}values="{" ".join(flag.choices)}";;')
    shells = " ".join(SHELLS)
    chosen.append(f'        "{PREFIX}completion ") values="{shells}";;')
    yield CHOSEN.format(cases="\n".join(chosen))
    offered = [
        f'        {PREFIX}{word}) flags="{" ".join(spelling for flag in own for spelling in flag.shown)}";;'
        for word, own in known.items()
    ]
    yield OFFERED.format(cases="\n".join(offered))


# ---------------------------------------------------------------- fish


def _fish(known: dict[str, list[Flag]]) -> Iterator[str]:
    yield "# Completion of nndiff in fish."
    yield "function __nndiff_runs  # whether the word after nndiff is this one; without one, whether there is none yet"
    yield "    set -l words (commandline -opc)"
    yield '    test "$words[2]" = "$argv[1]" -o "$words[2]" = "nndiff_$argv[1]"'
    yield "end"
    for word, does in _described():
        yield f"complete -c nndiff -f -n __nndiff_runs -a {word} -d {_quoted(does)}"
    yield f"complete -c nndiff -f -n '__nndiff_runs completion' -a '{' '.join(SHELLS)}'"
    for word, own in known.items():
        for flag in own:
            options = _of_fish(flag)
            yield f"complete -c {PREFIX}{word} {options}"
            yield f"complete -c nndiff -n '__nndiff_runs {word}' {options}"


def _of_fish(flag: Flag) -> str:
    options = []
    for spelling in flag.shown:
        bare = spelling.lstrip("-")
        kind = "-l" if spelling.startswith("--") else "-s" if len(bare) == 1 else "-o"
        options.append(f"{kind} {bare}")
    if flag.choices:
        options.append(f"-x -a '{' '.join(flag.choices)}'")
    elif flag.takes != NONE:
        options.append("-r")
    return f"{' '.join(options)} -d {_quoted(flag.help)}"


# ---------------------------------------------------------------- the words


def _words() -> str:
    return " ".join([*BY_WORD, "completion"])


def _described() -> list[tuple[str, str]]:
    return [*((row.word, row.does) for row in ROWS), ("completion", "print the completion of a shell")]


def _quoted(text: str) -> str:
    """Return a text in single quotes, as all three shells read it."""
    return "'" + text.replace("\\", "").replace("'", "’") + "'"


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}

if __name__ == "__main__":
    sys.exit(main())
