"""Mutants: each kind of change is made where it belongs, and a test that depends on it kills it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutants import (
    KILLED,
    SURVIVED,
    Map,
    Mutant,
    Trier,
    complete,
    copied,
    equivalents,
    is_another,
    mutants_of,
    summary,
)


def changes(code: str) -> set[str]:
    """Return every mutant of a module that is another program."""
    whole = code.encode()
    return {mutant.of(whole).decode() for mutant in mutants_of("nndiff/a.py", whole) if is_another(mutant, whole)}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a < b", {"a <= b"}),
        ("a >= b", {"a > b"}),
        ("(a) == (b)", {"(a) != (b)"}),
        ("a is not b", {"a is b"}),
        ("a in b", {"a not in b"}),
        ("a < b < c", {"a <= b < c", "a < b <= c"}),
        ("a + b", {"a - b"}),
        ("a * (b / c)", {"a / (b / c)", "a * (b * c)"}),
        ("a // b", {"a / b"}),
        ("a ** b", {"a * b"}),
        ("a & b", {"a | b"}),
        ("a += b", {"a -= b"}),
        ("x = 3", {"x = 4"}),
        ("x = 0.25", {"x = 0.5"}),
        ("x = 0.0", {"x = 1.0"}),
        ("x = 1e-06", {"x = 0.001"}),
        ("x = True", {"x = False"}),
        ("a and b or c", {"a or b or c", "a and b and c"}),
        ("x = not a", {"x =  a"}),
        ("f(a)", {"pass"}),
        ("é = é < 2", {"é = é <= 2", "é = é < 3"}),
        ("x = (a  # <\n  < b)", {"x = (a  # <\n  <= b)"}),
    ],
)
def test_each_kind_of_change(code: str, expected: set[str]) -> None:
    assert changes(code) == expected


@pytest.mark.parametrize(
    "code",
    [
        '"""a < 1"""',
        "assert a < 1",
        "x: Literal[1]",
        "def f(a: A[1]) -> B[2]: ...",
        "raise E(1 + 1)",
        'f"{a + 1}"',
        'x = a / "b"',
        "Optional = A | None",
        "if TYPE_CHECKING:\n    x = 1",
        'if __name__ == "__main__":\n    x = 1',
        "@dataclass(frozen=True)\nclass A: ...",
        "print(1)",
        "logging.info(1)",
        "x = zip(a, b, strict=True)",
        "return_none = None",
    ],
)
def test_what_is_not_changed(code: str) -> None:
    assert changes(code) == set()


def test_equivalent_mutants_state_their_reason() -> None:
    assert equivalents("# a title\n\nnndiff/a.py: a < b -> a <= b   # never equal\n") == {
        ("nndiff/a.py", "a < b", "a <= b")
    }
    with pytest.raises(ValueError, match="line 1"):
        equivalents("nndiff/a.py: a < b -> a <= b\n")


def test_the_entries_of_this_checkout_can_be_read() -> None:
    equivalents(mutants.EQUIVALENT.read_text())


def test_a_sample_follows_from_the_seed_and_leaves_out_what_is_equivalent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x.py", "b/y.py", "cli/z.py"):
        (tmp_path / "nndiff" / name).parent.mkdir(parents=True)
        (tmp_path / "nndiff" / name).write_text("A = 1\nB = A < 2\n")
    listed = tmp_path / "equivalent.txt"
    listed.write_text("nndiff/a/x.py: A = 1 -> A = 2  # same\nnndiff/a/x.py: A = 7 -> A = 8  # gone\n")
    monkeypatch.setattr(mutants, "EQUIVALENT", listed)

    def lines(*only: str, sample: int = 9, seed: int = 0) -> list[tuple[str, str]]:
        found, _ = mutants.drawn(tmp_path, only, sample, seed)
        return [(mutant.path, mutant.lines(b"A = 1\nB = A < 2\n")[1]) for mutant in found]

    assert sorted(lines("nndiff/a")) == [("nndiff/a/x.py", "B = A < 3"), ("nndiff/a/x.py", "B = A <= 2")]
    assert len(lines("nndiff")) == len(set(lines("nndiff"))) == 5
    assert lines("nndiff", sample=2) == lines("nndiff", sample=2) == lines("nndiff")[:2]
    assert len({tuple(lines("nndiff", seed=seed)) for seed in range(5)}) > 1
    assert mutants.drawn(tmp_path, ["nndiff"], 9, 0)[1] == ["nndiff/a/x.py: A = 7 -> A = 8"]
    assert mutants.drawn(tmp_path, ["nndiff/b"], 9, 0)[1] == []


def test_the_share_counts_what_survived() -> None:
    a, b = (Mutant(f"nndiff/{room}/x.py", 0, 1, b"", 1, 1, ()) for room in ("a", "b"))
    table, share = summary([(a, KILLED), (a, SURVIVED), (b, mutants.BY_TIME), (b, KILLED)])
    assert [line.split() for line in table.splitlines()] == [
        ["room", "tried", "killed", "share"],
        ["a", "2", "1", "50%"],
        ["b", "2", "2", "100%"],
        ["all", "4", "3", "75%"],
    ]
    assert share == 0.75


LIMIT = """LIMIT = 3


def small(x: int) -> bool:
    return x < LIMIT
"""
TESTS = """from nndiff.a.small import small


def test_small() -> None:
    assert small(2)
    assert not small(4)


def test_nothing() -> None:
    pass
"""


def test_a_mutant_is_killed_and_another_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has x = 3, so `<=` survives; LIMIT runs on import and is tested where it is named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # pytest starts in half the time
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p pytest_cov")
    for name, text in {"nndiff/a/small.py": LIMIT, "tests/b/test_small.py": TESTS}.items():
        (tmp_path / "made" / name).parent.mkdir(parents=True)
        (tmp_path / "made" / name).write_text(text)
    copy, kept = copied(tmp_path / "made", tmp_path), tmp_path / "map.json"
    complete(Map(), copy, kept)
    known = Map.read(kept)
    with monkeypatch.context() as unused:
        unused.setattr(mutants, "_pytest", lambda *_, **__: pytest.fail("the map is complete"))
        complete(known, copy, kept)
    assert known.lines["nndiff/a/small.py"][5] == {"tests/b/test_small.py::test_small"}
    fewer = Map.read(kept)
    fewer.forget("tests/b")
    assert not fewer.seconds
    assert not fewer.lines["nndiff/a/small.py"][5]

    trier, code = Trier(copy, known), LIMIT.encode()
    found = {mutant.lines(code)[1]: mutant for mutant in mutants_of("nndiff/a/small.py", code)}
    assert {line: trier.tests(mutant) for line, mutant in found.items()} == {
        "LIMIT = 4": ["tests/b/test_small.py::test_small"],
        "return x <= LIMIT": ["tests/b/test_small.py::test_small"],
    }
    assert trier(found["return x <= LIMIT"]) == SURVIVED
    assert (copy / "nndiff/a/small.py").read_text() == LIMIT
    assert trier(Mutant("nndiff/a/small.py", len("LIMIT = "), len("LIMIT = 3"), b"5", 5, 5, ())) == KILLED
    assert trier(Mutant("nndiff/a/small.py", 0, len("LIMIT"), b"1 / 0; LIMIT", 5, 5, ())) == KILLED
    assert (tmp_path / "made/nndiff/a/small.py").read_text() == LIMIT
