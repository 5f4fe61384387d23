"""Every command that a page shows is accepted by the parser of that command, and by any shell."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from nndiff.cli.reference import ROOT
from tests.documentation.pages import MODULE, Page, expands, module_of, pages, refusal, split

every_page = pytest.mark.parametrize("page", pages(), ids=str)
SETS = re.compile(r"--?set\s+(?!['\"])\S*[\[\]]")


def complaints(page: Page) -> Iterator[str]:
    for block in page.blocks:
        for number, line in block.lines:
            yield from (f"{page}:{number}: {text}" for text in _against(line, whole=True))
    for number, text in page.spans:
        yield from (f"{page}:{number}: {said}" for said in _against(text, whole=False))
    for number, line in page.prose:
        if SETS.search(line):
            yield f"{page}:{number}: quote the value of --set: zsh would look for files of that name"


def _against(line: str, whole: bool) -> Iterator[str]:
    if not re.match(r"\s*(\w+=\S+ )*(\S*/)?(nndiff(_\w+)? |(python|torchrun) )", line):
        return
    if expands(line):
        yield f"quote what the shell would expand: {line.strip()}"
    for words in split(line.replace("…", "")):
        called = module_of(words)
        if called and (said := refusal(*called, whole=whole)):
            yield f"{' '.join(words)}\n    {said}"


@every_page
def test_commands_are_accepted(page: Page) -> None:
    found = list(complaints(page))
    assert not found, "\n".join(found)


@every_page
def test_modules_that_a_page_names_exist(page: Page) -> None:
    named = set(MODULE.findall(page.text))
    assert not [name for name in named if not (ROOT / name.replace(".", "/")).with_suffix(".py").exists()]


def test_a_line_is_read_as_a_shell_reads_it() -> None:
    line = "A=1 nndiff_train 1 bridge 0 --set 'x=[1, 2]' $OUT/a & nndiff_plan -d 1   # a comment's text"
    assert split(line) == [
        ["nndiff_train", "1", "bridge", "0", "--set", "x=[1, 2]", "$OUT/a"],
        ["nndiff_plan", "-d", "1"],
    ]
    assert [expands(text) for text in ("a=[1,1]", "'a=[1,1]'", 'b="*"', "b=*", "a  # [1]")] == [
        True,
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nndiff plan -d 1 --dryrun", "did you mean '--dry-run'"),
        ("python -m nndiff plan -d 1 --dryrun", "did you mean '--dry-run'"),
        ("nndiff_plan -d 1 --dryrun", "did you mean '--dry-run'"),
        ("nndiff_train 1 bridge 0 --time_budget long", "expected a time"),
        ("nndiff_predict -d 1", "required: "),
        ("nndiff_trian 1 bridge 0", "there is no nndiff_trian"),
        ("torchrun --nproc_per_node=2 -m nndiff.cli.train 1 bridge 0 --budget 1h", "unknown flag --budget"),
        ("python -m benchmarks.soak --stairs 3", "unrecognized arguments: --stairs"),
        ("python -m dataset_conversion.synthrad -i FOLDER --task 9", "invalid choice"),
        ("nndiff_plan -d 1 --set crop.margin=[1,1,1]", "quote what the shell would expand"),
    ],
)
def test_a_wrong_command_is_noticed(line: str, said: str) -> None:
    found = list(_against(line, whole=True))
    assert len(found) == 1
    assert said in found[0]
