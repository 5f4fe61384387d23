"""Every link of a page leads somewhere, every page can be reached from the README, and named results are there."""

from __future__ import annotations

import re

import pytest

from nndiff.cli.reference import ROOT
from tests.documentation.pages import Page, pages

FIGURE = re.compile(r"\d+\.\d+(?=\s+dB)|(?<=SSIM of )\d\.\d+")
RESULTS = re.compile(r"benchmarks/results/[\w.-]+\.csv")
every_page = pytest.mark.parametrize("page", pages(), ids=str)


def _internal(page: Page) -> list[tuple[int, str]]:
    return [(number, target) for number, target in page.links if not re.match(r"\w+:", target)]


@every_page
def test_links_lead_somewhere(page: Page) -> None:
    for number, target in _internal(page):
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        assert path.exists(), f"{page}:{number}: there is no {target}"
        assert path.is_relative_to(ROOT), f"{page}:{number}: {target} lies outside the project"
        if anchor:
            known = Page(path).anchors
            assert anchor in known, f"{page}:{number}: {name or page} has no #{anchor}; it has {sorted(known)}"


@every_page
def test_tables_of_results_are_there(page: Page) -> None:
    assert not [name for name in RESULTS.findall(page.text) if not (ROOT / name).exists()]


def test_tutorials_quote_figures_of_the_results() -> None:
    """A figure in dB, or an SSIM, that a tutorial states stands in the tables of the results."""
    quoted = FIGURE.findall((ROOT / "documentation/how-to/tutorials.md").read_text(encoding="utf-8"))
    results = (ROOT / "documentation/explanation/results.md").read_text(encoding="utf-8")
    assert len(quoted) >= 5
    assert not [figure for figure in quoted if not re.search(rf"(?<![\d.]){re.escape(figure)}(?!\d)", results)]


def test_every_page_is_reached_from_the_readme() -> None:
    todo, reached = [ROOT / "README.md"], set()
    while todo:
        path = todo.pop()
        if path.is_dir():
            path = path / "README.md"  # what is shown of a folder
        if path.suffix == ".md" and path.exists() and path not in reached:
            reached.add(path)
            page = Page(path)
            todo += [(path.parent / target.partition("#")[0]).resolve() for _, target in _internal(page)]
    lost = [str(page) for page in pages() if page.path not in reached]
    assert not lost, f"no chain of links leads from README.md to {', '.join(lost)}"


def test_anchors_are_those_of_github(tmp_path) -> None:
    text = (
        "# Uncorrected, a tenth → all (`x_t`)\n\n## [A link](b.md): here\n\n## Twice\n\n## Twice\n\n    # no heading\n"
    )
    (tmp_path / "page.md").write_text(text)
    assert Page(tmp_path / "page.md").anchors == {
        "uncorrected-a-tenth--all-x_t",
        "a-link-here",
        "twice",
        "twice-1",
    }
