"""Methods: each file says what belongs together, and why. They are planned in the order of the table."""

from __future__ import annotations

from collections.abc import Sequence

from nndiff.methods.bridge import BRIDGE
from nndiff.methods.ddpm import DDPM
from nndiff.methods.method import Method
from nndiff.methods.prdit import PRDIT, PRDIT_LOWRES
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.registry import Registry

METHODS: Registry[Method] = Registry("method", {method.name: method for method in (BRIDGE, DDPM, PRDIT, PRDIT_LOWRES)})


def planned_for(task: str) -> tuple[str, ...]:
    """Return the configurations that a task plans where none is named."""
    return tuple(name for name in METHODS if task in METHODS[name].planned_for)


def demand_allowed(task: str, names: Sequence[str]) -> None:
    allowed = [name for name in METHODS if task in METHODS[name].tasks]
    for name in names:
        if name not in allowed:
            raise NndiffError(f"Task {task} has no configuration '{name}'.", remedy=nearest(name, allowed))
