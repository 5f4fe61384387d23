"""Do the tests notice when the code is wrong? Mutation testing of the core.

    python -m benchmarks.mutants [--sample 100] [--seed 0] [--only nndiff/metrics …] [--time 60m] [--map FILE]
                                 [-o FILE.csv]

A mutant is the code with one small change, for example `<` instead of `<=`. It is killed if a test fails, the import
fails, or the tests take more than SLOWER times as long as usual. Otherwise it survives: no test depends on that detail.

1. Map: the tests are run once under coverage, in a copy of the checkout. For every line the map holds the tests that
   execute it, and for every test its seconds. `--map FILE` keeps the map; it is reused as far as code and tests are
   the same.
2. Mutants are drawn from the syntax trees. Strings, assertions, annotations, decorators, the arguments of `raise`,
   `zip(strict=…)` and what is printed are not changed. Mutants in EQUIVALENT, which do the same as the code, are not
   drawn.
3. Each mutant is written into the copy. The tests of its line are run, the fastest first, then those of the folder of
   the same name (tests/metrics for nndiff/metrics), together at most MOST seconds of tests. A line that runs on import
   has no tests; the tests of the lines that name what it defines take their place.

Ends with 0 if at least ENOUGH of the mutants that were tried are killed.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

from nndiff.cli.times import seconds_of
from nndiff.words.files import write_json
from nndiff.words.text_table import text_table

ROOT = Path(__file__).parents[1]
PACKAGE = "nndiff"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
LEFT_OUT = ("nndiff/cli/", "nndiff/demo/", "nndiff/pictures.py")
NOT_RUN = {"slurm"}  # needs a controller and a node
NOT_COPIED = (".*", "__pycache__", "*.egg-info", "build", "dist", "demo_data")

ENOUGH = 0.95  # of the mutants tried
MOST = 120.0  # seconds of tests per mutant, as measured without it
BATCHES = (3.0, 20.0, MOST)  # seconds of tests after which a new process begins, so that an endless loop is soon found
SLOWER, START = 10.0, 60.0  # a batch may take so many times its seconds, and so many seconds to start
KILLED, BY_TIME, SURVIVED = "killed", "killed by time", "survived"

COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
COMPUTED: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
PRINTING = {"print", "warn", "logging", "logger", "log"}


# ---------------------------------------------------------------- mutants


@dataclass(frozen=True)
class Mutant:
    """One change of a file: the bytes from `start` to `end` become `new`."""

    path: str  # relative to the checkout
    start: int
    end: int
    new: bytes
    first: int  # line of the statement around it; of the function, if it is a default of an argument
    last: int
    names: tuple[str, ...]  # what the statement defines, if it runs on import

    def of(self, code: bytes) -> bytes:
        return code[: self.start] + self.new + code[self.end :]

    def line(self, code: bytes) -> int:
        return code.count(b"\n", 0, self.start) + 1

    def lines(self, code: bytes) -> tuple[str, str]:
        """Return the line where the change begins, before and after it, without indentation."""
        at = self.line(code) - 1
        before, after = (text.decode().split("\n")[at].strip() for text in (code, self.of(code)))
        return before, after


class _Finder(ast.NodeVisitor):
    """Collects the mutants of one module."""

    def __init__(self, path: str, code: bytes):
        self.path, self.code, self.found = path, code, list[Mutant]()
        self.offsets = [0]
        for line in code.splitlines(keepends=True):
            self.offsets.append(self.offsets[-1] + len(line))
        self.span, self.names, self.inside = (1, 1), (), False
        self.names: tuple[str, ...]

    # the change itself

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.offsets[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offsets[node.end_lineno - 1] + node.end_col_offset

    def add(self, start: int, end: int, new: str) -> None:
        names = () if self.inside else self.names
        self.found.append(Mutant(self.path, start, end, new.encode(), *self.span, names))

    def swap(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """Swap the operator between two operands."""
        words = r"\s+".join(map(re.escape, old.split()))
        pattern = rf"\b{words}\b" if old[0].isalpha() else words
        between = re.sub(rb"#[^\n]*", lambda match: b" " * len(match[0]), self.code[self.end(left) : self.start(right)])
        match = re.search(pattern.encode(), between)
        assert match is not None
        self.add(self.end(left) + match.start(), self.end(left) + match.end(), new)

    # expressions

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, kind, right in zip((node.left, *node.comparators), node.ops, node.comparators, strict=False):
            self.swap(left, right, *COMPARED[type(kind)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in COMPUTED and not any(_is_text(side) or _is_none(side) for side in (node.left, node.right)):
            self.swap(node.left, node.right, *COMPUTED[type(node.op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.swap(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.add(self.start(node), self.start(node) + len("not"), "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add(self.start(node), self.end(node), str(not value))
        elif isinstance(value, int):
            self.add(self.start(node), self.end(node), str(value + 1))
        elif isinstance(value, float):
            self.add(self.start(node), self.end(node), repr(_changed(value)))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass

    def visit_Call(self, node: ast.Call) -> None:
        if _name(node.func) == "zip":
            node = ast.Call(node.func, node.args, [word for word in node.keywords if word.arg != "strict"])
        self.generic_visit(node)

    # statements

    def visit(self, node: ast.AST) -> None:
        before = self.span
        if isinstance(node, ast.stmt):
            self.span = _span(node)
        if not (isinstance(node, ast.Expr) and _is_printing(node.value)):
            super().visit(node)
        self.span = before

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call):
            self.add(self.start(node), self.end(node), "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in COMPUTED and not _is_text(node.value):
            old, new = COMPUTED[type(node.op)]
            self.swap(node.target, node.value, f"{old}=", f"{new}=")
        self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        pass

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_Assign(self, node: ast.Assign) -> None:
        self.defining([target.id for target in node.targets if isinstance(target, ast.Name)], node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.defining([node.target.id] if isinstance(node.target, ast.Name) else [], node.value)

    def defining(self, names: Iterable[str], node: ast.AST) -> None:
        before, self.names = self.names, tuple(names)
        self.generic_visit(node) if isinstance(node, ast.Assign) else self.visit(node)
        self.names = before

    def visit_If(self, node: ast.If) -> None:
        written = ast.unparse(node.test)
        if "TYPE_CHECKING" not in written and "__main__" not in written:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        before, self.inside = self.inside, True
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for statement in node.body:
            self.visit(statement)
        self.inside = before

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)


def _span(node: ast.stmt) -> tuple[int, int]:
    """Return the first and the last line of a statement; of its head only, if it holds other statements."""
    body = getattr(node, "body", None)
    if body and not isinstance(node, ast.FunctionDef):
        return node.lineno, max(node.lineno, body[0].lineno - 1)
    return node.lineno, node.end_lineno or node.lineno


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None  # `Tensor | None` is a type


def _name(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        if node.attr in PRINTING:
            return node.attr
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_printing(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) in PRINTING


def _changed(value: float) -> float:
    """Return a number that differs clearly; one that only avoids a division by zero needs more than a factor of 2."""
    return 1.0 if value == 0 else value * 1000 if abs(value) < 1e-4 else value * 2


def mutants_of(path: str, code: bytes) -> list[Mutant]:
    """Return the mutants of a module; a few of them may be no program."""
    finder = _Finder(path, code)
    finder.visit(ast.parse(code))
    return finder.found


def is_another(mutant: Mutant, code: bytes) -> bool:
    """Return whether a mutant is a program, and not the same one."""
    try:
        return ast.dump(ast.parse(mutant.of(code))) != ast.dump(ast.parse(code))
    except SyntaxError:
        return False


def equivalents(text: str) -> set[tuple[str, str, str]]:
    """Return path, line and mutated line of each entry `path: line -> mutated line   # why`."""
    found = set()
    for number, entry in enumerate(text.splitlines(), 1):
        if entry.strip() and not entry.startswith("#"):
            match = re.fullmatch(r"(\S+): (.+?) -> (.+?)\s{2,}# \S.*", entry)
            if match is None:
                raise ValueError(f"{EQUIVALENT.name}, line {number}: write `path: line -> mutated line   # why`")
            found.add((match[1], match[2], match[3]))
    return found


# ---------------------------------------------------------------- the map


@dataclass
class Map:
    """For every line the tests that execute it, and the seconds of every test."""

    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[int, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    done: dict[str, str] = field(default_factory=dict)  # per folder or file of tests that were run, a digest

    @classmethod
    def read(cls, path: Path) -> Map:
        data, found = json.loads(path.read_text()), cls()
        tests = list(data["seconds"])
        found.seconds, found.done = data["seconds"], data["done"]
        for file, lines in data["lines"].items():
            for line, numbers in lines.items():
                found.lines[file][int(line)] = {tests[number] for number in numbers}
        return found

    def write(self, path: Path) -> None:
        number = {test: i for i, test in enumerate(self.seconds)}
        lines = {
            file: {line: sorted(number[test] for test in tests) for line, tests in of.items()}
            for file, of in self.lines.items()
        }
        write_json(path, {"seconds": self.seconds, "lines": lines, "done": self.done})

    def add(self, copy: Path, data: Path, report: Path) -> None:
        """Add what coverage and the report of one run of tests say. Tests that failed or were skipped are left out."""
        import coverage

        for case in ElementTree.parse(report).iter("testcase"):
            if not any(part.tag in ("failure", "error", "skipped") for part in case):
                self.seconds[_node_id(copy, case)] = float(case.get("time", 0))
        files = defaultdict(set)
        for test in self.seconds:
            files[test.partition("::")[0]].add(test)
        measured = coverage.CoverageData(str(data))
        measured.read()
        for file in measured.measured_files():
            for line, contexts in measured.contexts_by_lineno(file).items():
                for context in contexts:
                    test, _, phase = context.rpartition("|")
                    # What a fixture runs may serve all tests of its file.
                    tests = files[test.partition("::")[0]] if phase == "setup" else {test} & self.seconds.keys()
                    self.lines[str(Path(file).relative_to(copy))][line] |= tests

    def forget(self, name: str) -> None:
        """Remove the tests of a folder or file."""
        gone = {test for test in self.seconds if test.startswith((f"{name}/", f"{name}::"))}
        self.seconds = {test: seconds for test, seconds in self.seconds.items() if test not in gone}
        for lines in self.lines.values():
            for tests in lines.values():
                tests -= gone

    def of_lines(self, path: str, lines: Iterable[int]) -> set[str]:
        return {test for line in lines for test in self.lines.get(path, {}).get(line, ())}


def _node_id(copy: Path, case: ElementTree.Element) -> str:
    """Return pytest's name of a test from its entry in the report."""
    parts = str(case.get("classname")).split(".")
    inside: list[str] = []
    while not (copy / ("/".join(parts) + ".py")).exists():
        inside.insert(0, parts.pop())
    return "::".join(["/".join(parts) + ".py", *inside, str(case.get("name"))])


def _files(path: Path, pattern: str) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob(pattern))


def _digest(*paths: Path) -> str:
    """Return a digest of all code in the folders and files: a map of other code has other lines."""
    return hashlib.sha256(b"".join(file.read_bytes() for path in paths for file in _files(path, "*.py"))).hexdigest()


def complete(known: Map, copy: Path, kept: Path | None) -> None:
    """Run the tests under coverage that the map does not hold in their current form, one folder after the other."""
    every = sorted(path for path in (copy / "tests").iterdir() if path.is_dir() or path.name.startswith("test_"))
    for path in every:
        name = path.relative_to(copy).as_posix()
        digest = _digest(copy / PACKAGE, path)
        if path.name in NOT_RUN or known.done.get(name) == digest or not _files(path, "test_*.py"):
            continue
        print(f"Map: {name}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            data, report = Path(folder) / "coverage", Path(folder) / "report.xml"
            options = [f"--cov={PACKAGE}", "--cov-context=test", "--cov-report=", f"--junitxml={report}"]
            _pytest(copy, [*options, name], None, COVERAGE_FILE=str(data))
            known.forget(name)
            known.add(copy, data, report)
        known.done[name] = digest
        if kept is not None:
            known.write(kept)


# ---------------------------------------------------------------- trying


def copied(root: Path, folder: Path) -> Path:
    """Copy a checkout, and return the copy."""
    copy = folder / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return copy.resolve()


def _pytest(copy: Path, arguments: Sequence[str], limit: float | None, **environment: str) -> int | None:
    """Run pytest in the copy, and return its exit code; None if it took longer than the limit."""
    variables = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"} | environment
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=copy, env=variables, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def collected(copy: Path) -> set[str]:
    """Return pytest's names of all tests in the copy."""
    command = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "-p", "no:cacheprovider", "--collect-only", "tests"]
    variables = os.environ | {"PYTHONPATH": str(copy)}
    ran = subprocess.run(command, cwd=copy, env=variables, capture_output=True, text=True)
    return {line for line in ran.stdout.splitlines() if "::" in line}


class Trier:
    """Tries mutants in a copy of the checkout."""

    def __init__(self, copy: Path, known: Map):
        self.copy, self.known = copy, known
        there = collected(copy)
        self.seconds = {test: seconds for test, seconds in known.seconds.items() if test in there}

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests to run: those of the line, the fastest first, then those of the folder of the same name."""
        own = self.known.of_lines(mutant.path, range(mutant.first, mutant.last + 1))
        room = mutant.path.split("/")[1].removesuffix(".py")
        folder = {test for test in self.seconds if test.startswith((f"tests/{room}/", f"tests/test_{room}.py"))}
        groups = [own, folder] if own else [folder, self._naming(mutant.names)]
        found: dict[str, None] = {}
        for group in groups:
            found |= dict.fromkeys(sorted(group & self.seconds.keys(), key=self.seconds.__getitem__))
        return list(found)

    def _naming(self, names: Sequence[str]) -> set[str]:
        """Return the tests of all lines that name what runs on import."""
        if not names:
            return set()
        pattern, found = re.compile(rf"\b({'|'.join(names)})\b"), set[str]()
        for path in self.known.lines:
            lines = (self.copy / path).read_text().split("\n") if (self.copy / path).exists() else []
            found |= self.known.of_lines(path, (i for i, line in enumerate(lines, 1) if pattern.search(line)))
        return found

    def batches(self, tests: Iterable[str]) -> Iterator[list[str]]:
        """Yield the tests in batches that end after BATCHES seconds, up to MOST."""
        limits, total, batch = list(BATCHES), 0.0, list[str]()
        for test in tests:
            total += self.seconds[test]
            while limits and total > limits[0] and batch:
                yield batch
                limits, batch = limits[1:], []
            if not limits:
                return
            batch.append(test)
        if batch:
            yield batch

    def __call__(self, mutant: Mutant) -> str:
        """Return what became of a mutant. The copy is as before afterwards."""
        path = self.copy / mutant.path
        code = path.read_bytes()
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()  # its time stamp counts seconds
        path.write_bytes(mutant.of(code))
        try:
            for batch in self.batches(self.tests(mutant)):
                (self.copy / "batch.txt").write_text("\n".join(batch))
                limit = START + SLOWER * sum(map(self.seconds.__getitem__, batch))
                ended = _pytest(self.copy, ["-x", "@batch.txt"], limit, PYTHONDONTWRITEBYTECODE="1")
                if ended != 0:
                    return BY_TIME if ended is None else KILLED
            return SURVIVED
        finally:
            path.write_bytes(code)


def drawn(root: Path, only: Sequence[str], sample: int, seed: int) -> tuple[list[Mutant], list[str]]:
    """Return a random sample of the mutants, and the entries of EQUIVALENT that match none."""
    same = equivalents(EQUIVALENT.read_text()) if EQUIVALENT.exists() else set()
    every, met, codes = [], set(), dict[str, bytes]()
    for path in sorted((root / PACKAGE).rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(LEFT_OUT) or not any(name == each or name.startswith(f"{each}/") for each in only):
            continue
        codes[name] = path.read_bytes()
        listed = any(name == other for other, _, _ in same)
        for mutant in mutants_of(name, codes[name]):
            entry = (name, *mutant.lines(codes[name])) if listed else None
            met.add(entry)
            if entry not in same:
                every.append(mutant)
    stale = [f"{path}: {was} -> {new}" for path, was, new in sorted(same - met) if path in codes]
    random.Random(seed).shuffle(every)
    good = (mutant for mutant in every if is_another(mutant, codes[mutant.path]))
    return list(islice(good, sample)), stale


def summary(outcomes: Sequence[tuple[Mutant, str]]) -> tuple[str, float]:
    """Return a table per room, and the share of the mutants that were killed."""
    tried, survived = (
        Counter(mutant.path.split("/")[1] for mutant, outcome in outcomes if keep(outcome))
        for keep in (lambda _: True, lambda outcome: outcome == SURVIVED)
    )
    rows = [["room", "tried", "killed", "share"]]
    total = ("all", len(outcomes), survived.total())
    for room, n, left in (*((room, tried[room], survived[room]) for room in sorted(tried)), total):
        rows.append([room, str(n), str(n - left), f"{(n - left) / max(1, n):.0%}"])
    return text_table(rows), 1 - total[2] / max(1, total[1])


def tried(
    mutants: Sequence[Mutant], trier: Callable[[Mutant], str], seconds: float
) -> Iterator[tuple[Mutant, str, float]]:
    """Yield what became of each mutant, and in how many seconds, until the time is over."""
    start = time.monotonic()
    for mutant in mutants:
        began = time.monotonic()
        if began - start > seconds:
            return
        yield mutant, trier(mutant), time.monotonic() - began


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[PACKAGE], metavar="PATH", help="folders or files of the package")
    parser.add_argument("--time", type=seconds_of, default=3600.0, metavar="60m", help="for the mutants, after the map")
    parser.add_argument("--map", type=Path, default=None, metavar="FILE", help="keep the map here")
    parser.add_argument("-o", "--output", type=Path, default=None, metavar="FILE.csv")
    arguments = parser.parse_args(argv)
    mutants, stale = drawn(ROOT, [each.rstrip("/") for each in arguments.only], arguments.sample, arguments.seed)
    for entry in stale:
        print(f"{EQUIVALENT.name} has an entry that matches no mutant: {entry}")
    outcomes, rows = [], []
    with tempfile.TemporaryDirectory(prefix="nndiff_mutants_") as folder:
        copy = copied(ROOT, Path(folder))
        known = Map.read(arguments.map) if arguments.map and arguments.map.exists() else Map()
        complete(known, copy, arguments.map)
        for mutant, outcome, seconds in tried(mutants, Trier(copy, known), arguments.time):
            code = (ROOT / mutant.path).read_bytes()
            was, new = mutant.lines(code)
            outcomes.append((mutant, outcome))
            rows.append([mutant.path, mutant.line(code), was, new, outcome, f"{seconds:.0f}"])
            if outcome == SURVIVED:
                print(f"{mutant.path}:{mutant.line(code)}: {was} -> {new}", flush=True)
    table, share = summary(outcomes)
    print(f"\n{table}")
    if arguments.output is not None:
        with arguments.output.open("w", newline="") as stream:
            csv.writer(stream).writerows([["path", "line", "was", "becomes", "outcome", "seconds"], *rows])
    return 0 if outcomes and share >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
