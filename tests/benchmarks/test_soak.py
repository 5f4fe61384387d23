"""What counts as growth of a long run."""

from __future__ import annotations

import pytest

from benchmarks.soak import FIRST, MOMENTS, Health, grown

FLAT = [Health(100.0, 8, 4)] * MOMENTS


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (Health(104.0, 8, 4), []),
        (Health(106.0, 8, 4), ["memory from 100 to 106 MB"]),
        (Health(50.0, 9, 4), ["files from 8 to 9"]),
        (Health(100.0, 8, 5), ["threads from 4 to 5"]),
        (Health(90.0, 7, 3), []),
    ],
)
def test_growth_from_a_quarter_of_the_way_on(last: Health, words: list[str]) -> None:
    assert grown([*FLAT, *[last] * FIRST]) == words


def test_what_comes_and_goes_has_not_grown() -> None:
    assert grown([*FLAT, Health(100.0, 8, 4), *[Health(100.0, 12, 4)] * (FIRST - 1)]) == []


def test_what_grows_before_does_not_count() -> None:
    assert grown([Health(10.0, 1, 1)] * FIRST + FLAT) == []


def test_this_process_has_memory_files_and_threads() -> None:
    before = Health.now()
    assert before.megabytes > 10
    assert before.threads >= 1
    with open("/dev/null") as _:
        assert Health.now().files == before.files + 1
