"""The request for a training: plan, configuration, fold, folders, device and options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from nndiff.checkpoint import Epoch, Seen
from nndiff.plans.plan import Plan


@dataclass(frozen=True)
class Request:
    """A request to train one fold of one configuration."""

    plan: Plan
    configuration: str
    fold: str
    prepared: Path  # preprocessed/DATASET
    results: Path  # results/DATASET
    device: torch.device
    seen: tuple[Seen, ...]
    seed: int = 0
    time_budget: float | None = None  # seconds
    go_on: bool = False  # whatever the training was begun with
    restart: bool = False  # set an earlier training aside
    workers: int | None = None  # number of processes that load data
    begin_with: Path | None = None  # a checkpoint from whose weights the training starts
    listeners: tuple[Callable[[Epoch], None], ...] = ()  # each is called after every epoch, by the first process

    @property
    def begun_with(self) -> str:
        """Return the name by which a checkpoint remembers `begin_with`."""
        return "" if self.begin_with is None else "/".join(self.begin_with.parts[-3:])

    @property
    def folder(self) -> Path:
        return self.results / self.configuration / f"fold_{self.fold}"
