"""Methods: each file defines one method, with a reason for each of its choices.

Configurations are planned in the order of the table METHODS.
"""

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
    """Return the names of the configurations that are planned for a task if the user names none."""
    return tuple(name for name in METHODS if task in METHODS[name].planned_for)


def demand_allowed(task: str, names: Sequence[str]) -> None:
    """Refuse a configuration that does not serve the task."""
    allowed = [name for name in METHODS if task in METHODS[name].tasks]
    for name in names:
        if name not in allowed:
            raise NndiffError(f"Task {task} has no configuration '{name}'.", remedy=nearest(name, allowed))
