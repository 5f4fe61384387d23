"""The software that is installed, beside what nndiff requires: setup.py, as the metadata of the installation tells it.

Nothing is imported but by `demand_import`, which can crash: it is called in a process apart.
"""

from __future__ import annotations

import importlib
import json
import platform
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from nndiff.words.version import VERSION

REQUIREMENT = re.compile(
    r"^(?P<name>[\w.-]+)\s*(?P<range>[^;\[]*?)\s*(?:;.*?extra\s*==\s*['\"](?P<extra>[\w-]+)['\"].*)?$"
)
NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True)
class Requirement:
    """A distribution that nndiff needs, always or for an extra."""

    name: str
    range: str = ""  # such as >=2.8
    extra: str = ""

    def __str__(self) -> str:
        return f"{self.name}{self.range}"

    @property
    def found(self) -> str:
        """The version that is installed; empty if there is none."""
        try:
            return metadata.version(self.name) or ""
        except metadata.PackageNotFoundError:
            return ""

    @property
    def met(self) -> bool:
        return bool(self.found) and self.allows(self.found)

    def allows(self, version: str) -> bool:
        """Return whether a version is not too old; setup.py sets no other bounds."""
        least = re.search(r">=\s*([\w.]+)", self.range)
        return least is None or _numbers(version) >= _numbers(least[1])


def requirements() -> list[Requirement]:
    """Return what the installed metadata require; nothing where nndiff is not installed."""
    try:
        rows = metadata.requires("nndiff") or []
    except metadata.PackageNotFoundError:
        return []
    found = (REQUIREMENT.match(row) for row in rows)
    return [Requirement(m["name"], m["range"].replace(" ", ""), m["extra"] or "") for m in found if m]


def needed_python() -> str:
    """Return the range of Python versions that nndiff needs, such as >=3.11; empty where it is not installed."""
    try:
        return str(metadata.metadata("nndiff").json.get("requires_python") or "")
    except metadata.PackageNotFoundError:
        return ""


def checkout() -> Path | None:
    """Return the folder that nndiff was installed from in place (pip install -e); None otherwise."""
    try:
        data = json.loads(metadata.distribution("nndiff").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    if not data.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlparse(str(data.get("url", ""))).path))


def pip(needs: list[Requirement], *flags: str) -> str:
    """Return the command that installs these; in a checkout, with the versions that its tests run with."""
    pins = ["-c", f"{place}/constraints.txt"] if (place := checkout()) else []
    return " ".join([sys.executable, "-m", "pip", "install", *flags, *pins, *(f'"{need}"' for need in needs)])


def bringing(extra: str, needs: list[Requirement]) -> str:
    """Return the command that brings an extra: by its name in a checkout, since nndiff is in no index."""
    if place := checkout():
        return f'cd {place} && {sys.executable} -m pip install -c constraints.txt -e ".[{extra}]"'
    return pip(needs)


def missing_extras() -> dict[str, list[Requirement]]:
    """Return for each extra, in the order of setup.py, the requirements that are not met."""
    needs = [need for need in requirements() if need.extra]
    extras = dict.fromkeys(need.extra for need in needs)
    return {extra: [need for need in needs if need.extra == extra and not need.met] for extra in extras}


def versions() -> dict[str, str]:
    """Return the versions that a bug report needs, of extras too where they are installed."""
    needs = requirements()
    how = f"installed in place from {checkout()}" if checkout() else "installed" if needs else "not installed"
    names = dict.fromkeys(need.name for need in needs if not need.extra or need.found)
    return {
        "nndiff": f"{VERSION}, {how}",
        "its folder": str(Path(__file__).parents[1]),
        "python": f"{platform.python_version()}, {sys.executable}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        **{name: Requirement(name).found or "missing" for name in names},
    }


def demand_import(name: str) -> None:
    """Import the module of a distribution, whatever that does."""
    importlib.import_module(name.replace("-", "_"))


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release, without what stands behind a + (a build)."""
    return tuple(int(number) for number in NUMBERS.findall(re.split(r"[+a-zA-Z]", version)[0]))
