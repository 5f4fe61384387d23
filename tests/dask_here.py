"""A Dask cluster on this machine, for tests: a scheduler and two workers, each a process with a nanny."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nndiff.words.crew import Crew


@contextmanager
def two_workers() -> Iterator[Crew]:
    """Yield the crew of a cluster; its workers say that they have a GPU each."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed: pip install 'nndiff[cluster]'")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "resources": {"GPU": 1}}
    with distributed.LocalCluster(**options) as local:
        yield Crew(scheduler=local.scheduler_address)
