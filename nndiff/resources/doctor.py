"""An examination of everything that nndiff stands on, which cannot fail itself.

    versions → libraries → processor → cards → self-test → roots → datasets → extras, each with the problems it shows

Whatever loads a library, asks a driver or reads a folder runs in a process apart: there a library may crash, a driver
or a network disk may hang. Each such end is a problem in words. Names of cases never leave their probe, and home
folders are written as ~.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nndiff.resources import devices, holdings, installed
from nndiff.resources.apart import Apart, Lost
from nndiff.words.problem import Problem, without_names

PATIENCE = 300.0  # seconds for one probe: the first import from a network disk is slow
Asked = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Found:
    """What one part of the examination found, as JSON holds it."""

    group: str
    data: Any
    problems: list[Problem] = field(default_factory=list)


def examine(given: dict[str, Path | None]) -> Iterator[Found]:
    """Yield the parts of the examination as they are ready.  given: the root folders of the command line, by kind."""
    with Apart(answer, limited=False) as ask:
        for found in _parts(_Asking(ask), given):
            problems = [Problem(**without_names(vars(problem))) for problem in found.problems]
            yield Found(found.group, without_names(found.data), problems)


@dataclass(frozen=True)
class _Asking:
    ask: Apart[Asked, Any]

    def __call__(self, probe: str, *arguments: Any, otherwise: Any = None) -> tuple[Any, list[Problem]]:
        """Return the answer of a probe and its problems; `otherwise`, and a problem, if it has none."""
        try:
            data, problems, fine = self.ask((probe, arguments), PATIENCE)
        except Lost as lost:
            return otherwise, [Problem(f"The look at {probe} did not end: {lost.found}.", PROBES[probe].remedy, True)]
        return (data if fine else otherwise), problems


def _parts(ask: _Asking, given: dict[str, Path | None]) -> Iterator[Found]:
    yield Found("versions", installed.versions(), _of_python())
    libraries, problems = _libraries(ask)
    yield Found("libraries", libraries, problems)
    data, problems = ask("the processor", otherwise={})
    yield Found("processor", data, problems)
    if libraries.get("torch", "works") == "works":
        data, problems = ask("the graphics cards", otherwise={})
        yield Found("cards", data, problems)
        yield _tested(ask)
    else:
        yield Found("cards", {"gpus_of_driver": [row["name"] for row in devices.driver()]})
        yield Found("self_test", [])
    rows, problems = ask("the root folders", given, otherwise=[])
    yield Found("roots", rows, problems)
    yield _held(ask, {row["kind"]: Path(row["path"]) for row in rows if row["set_by"]})
    yield Found("extras", _extras())


def _of_python() -> list[Problem]:
    needed = installed.needed_python()
    own = installed.Requirement("python", needed)
    found = ".".join(map(str, sys.version_info[:3]))
    if not own.allows(found):
        remedy = "make the environment with a later Python: documentation/getting-started.md, Install"
        return [Problem(f"nndiff needs Python {needed}; this is {found}.", remedy, stops=True)]
    return []


def _libraries(ask: _Asking) -> tuple[dict[str, str], list[Problem]]:
    """Import every library that nndiff requires, each on its own, and return how that ended."""
    needs = [need for need in installed.requirements() if not need.extra]
    rows, problems = {}, []
    if not needs:
        remedy = "install it: make setup, or pip install nndiff's folder"
        problems.append(Problem("nndiff is not installed; it was only found on the path.", remedy))
    for need in needs or [installed.Requirement("torch"), installed.Requirement("numpy")]:
        rows[need.name], found = _library(ask, need)
        problems += found
    return rows, problems


def _library(ask: _Asking, need: installed.Requirement) -> tuple[str, list[Problem]]:
    if not need.found:
        return "missing", [Problem(f"{need.name} is missing.", installed.pip([need]), stops=True)]
    if not need.met:
        what = f"{need.name} {need.found} is too old; nndiff needs {need.range}."
        return "too old", [Problem(what, installed.pip([need]), stops=True)]
    why, lost = ask("a library", need.name, otherwise="crashes")
    if not why:
        return "works", []
    remedy = installed.pip([need], "--force-reinstall")
    why = lost[0].what if lost else why
    return "broken", [Problem(f"{need.name} {need.found} cannot be imported: {why}", remedy, stops=True)]


def _tested(ask: _Asking) -> Found:
    names, problems = ask("the devices to test", otherwise=[])
    rows: list[Any] = []
    for name in names:
        found, more = ask("convolutions", name, otherwise=[{"device": name, "precision": "", "status": "not tested"}])
        rows, problems = [*rows, *found], [*problems, *more]
    return Found("self_test", rows, problems)


def _held(ask: _Asking, known: dict[str, Path]) -> Found:
    names, problems = ask("the folders of datasets", known, otherwise=[])
    rows: list[Any] = []
    for name in names:
        found, more = ask("a dataset", name, known, otherwise={"name": name, "stage": "not examined", "runs": []})
        rows, problems = [*rows, found], [*problems, *more]
    return Found("datasets", rows, problems)


def _extras() -> dict[str, Any]:
    """Return for each extra what is missing of it, and the command that brings it."""
    return {
        extra: {"missing": [need.name for need in needs], "command": installed.bringing(extra, needs) if needs else ""}
        for extra, needs in installed.missing_extras().items()
    }


# ---------------------------------------------------------------- in the process apart


@dataclass(frozen=True)
class Probe:
    """A function that looks at one thing, and what to do where it does not end."""

    look: Callable[..., tuple[Any, list[Problem]]]
    remedy: str


def answer(asked: Asked) -> tuple[Any, list[Problem], bool]:
    """Return what a probe finds, its problems, and whether it came to its end."""
    name, arguments = asked
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return *PROBES[name].look(*arguments), True
        except ImportError:  # which is told with the libraries
            what = f"The look at {name} needs a library that cannot be imported."
            return None, [Problem(what, "install the libraries first, see above", stops=True)], False
        except Exception as error:
            remedy = "this is a defect of nndiff: report it with this output"
            return None, [Problem(f"The look at {name} failed: {_in_words(error)}.", remedy, stops=True)], False


def _in_words(error: Exception) -> str:
    """Return an error without its text, which may name a case: its kind, and the line of nndiff that it came from."""
    own = [row for row in traceback.extract_tb(error.__traceback__) if "nndiff" in row.filename]
    return f"{type(error).__name__}{f' in {Path(own[-1].filename).name}:{own[-1].lineno}' if own else ''}"


def _imported(name: str) -> tuple[str, list[Problem]]:
    """Return why a library cannot be imported; an empty text if it can."""
    try:
        installed.demand_import(name)
    except BaseException as error:  # some end the program
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}", []
    return "", []


ON_DISK = "see whether the folder answers (ls): its disk may hang"
PROBES = {
    "a library": Probe(_imported, "install it again"),
    "the processor": Probe(devices.processor, "report this output"),
    "the graphics cards": Probe(devices.cards, "see whether nvidia-smi works; install driver and torch again"),
    "the devices to test": Probe(lambda: (devices.to_test(), []), "see whether nvidia-smi works"),
    "convolutions": Probe(devices.self_test, "update driver and torch; until then use another -device"),
    "the root folders": Probe(holdings.roots, ON_DISK),
    "the folders of datasets": Probe(lambda known: (holdings.datasets(known), []), ON_DISK),
    "a dataset": Probe(holdings.dataset, ON_DISK),
}
