"""Cases on a Dask cluster. Its scheduler distributes them, and gives those of a dead worker to others.

    for case, outcome in outcomes(crew, function, cases): ...      outcome = a result, or a Failure with the reason

Workers see the same folders under the same names, and have the same version of nndiff: both are checked. A worker that
is silent for PATIENCE ends itself, and counts as dead, but not one that predicts, which may take days. Dask counts how
many workers a case has killed, and gives it up.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import platform
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from nndiff.resources.outcomes import Failure, Guarded, Named
from nndiff.resources.processes import CHECK, PATIENCE
from nndiff.words.crew import Crew
from nndiff.words.errors import NndiffError
from nndiff.words.telling import tell
from nndiff.words.version import VERSION

C = TypeVar("C", bound=Named)
R = TypeVar("R")

CLUSTERS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
MOST = 16  # jobs of a batch system, unless -np says how many
LEAST_MEMORY = 4 << 30  # bytes of such a job, unless Dask's own configuration says how many
CONNECT, ARRIVE = 20.0, 60.0  # seconds until a scheduler answers, and until one has a worker
KILLED: Any = object()  # the outcome of a case that Dask gave up, since workers that had it died
GPU = "GPU"  # the resource of which workers for networks have one, where a cluster declares it


def outcomes(
    crew: Crew, function: Callable[[C], R], cases: Sequence[C], bytes_each: int, gpu: bool = False
) -> Iterator[tuple[C, R | Failure]]:
    """Yield (case, outcome) as the cases finish.

    With `gpu` each takes one GPU, where the cluster counts them, and as long as it likes: it predicts.
    """
    client = connected(crew, bytes_each)
    remote = _Remote(function, Path.cwd(), None if gpu else PATIENCE)
    options: dict[str, Any] = {"resources": {GPU: 1}} if gpu and _counts_gpus(client) else {}

    def submit(case: C) -> Any:
        return client.submit(remote, case, key=f"{case.name}-{uuid.uuid4().hex}", **options)

    suspects = list[C]()
    for case, outcome in _together(crew, client, submit, cases):
        if outcome is KILLED:
            suspects.append(case)
        else:
            yield case, outcome
    for case in suspects:  # Dask blames all cases that a dead worker had; of several each is tried alone
        alone = [(case, KILLED)] if len(suspects) == 1 else _together(crew, client, submit, [case])
        for _, outcome in alone:
            yield case, _killed(case) if outcome is KILLED else outcome


def _together(
    crew: Crew, client: Any, submit: Callable[[C], Any], cases: Sequence[C]
) -> Iterator[tuple[C, R | Failure]]:
    distributed, waiting = _imported("distributed"), iter(cases)
    running: dict[Any, C] = {}
    try:
        while True:
            for case in islice(waiting, max(0, _room(client, crew) - len(running))):
                running[submit(case)] = case
            if not running:
                return
            with contextlib.suppress(distributed.TimeoutError), client.as_current():
                distributed.wait(list(running), timeout=CHECK, return_when="FIRST_COMPLETED")
            for future in [future for future in running if future.done()]:
                case = running.pop(future)
                yield case, _outcome(crew, case, future)
    except OSError as error:  # of the connection; those of cases are outcomes
        raise _gone(crew) from error
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            client.cancel(list(running))


@dataclass(frozen=True)
class _Remote(Generic[C, R]):
    """What runs on a worker: the function, in the folder in which the command was started."""

    function: Callable[[C], R]
    folder: Path
    patience: float | None

    def __call__(self, case: C) -> R | Failure:
        if self.patience is None:
            return Guarded(self._run)(case)
        ended = threading.Timer(self.patience, os._exit, (1,))
        ended.daemon = True
        ended.start()
        try:
            return Guarded(self._run)(case)
        finally:
            ended.cancel()

    def _run(self, case: C) -> R:
        try:
            os.chdir(self.folder)  # paths may be relative to it
        except OSError as error:
            raise NndiffError(
                "A worker of the cluster does not see the folder of this command.",
                expected="the same folders under the same names on all machines",
                found=f"on {platform.node()}: {error.strerror}",
                where=self.folder,
                remedy="start the command in a folder that all machines share",
            ) from error
        return self.function(case)


def _outcome(crew: Crew, case: Named, future: Any) -> Any:
    if future.status == "cancelled":
        raise _gone(crew)
    if future.status != "error":
        return future.result()
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return KILLED
    return Failure(case.name, f"{type(error).__name__}: {error}", "", False)


def _killed(case: Named) -> Failure:
    reason = (
        "every worker that began it died; most likely their memory was full\n"
        "  remedy: give the workers more memory, or check the files of this case, they may be damaged"
    )
    return Failure(case.name, reason, "", True)


def _room(client: Any, crew: Crew) -> int:
    """Return how many cases may be under way: one a thread, so hardly one waits behind another and dies with it."""
    slots: int = max(1, sum(client.nthreads().values()))
    return slots if crew.most is None else min(slots, crew.most)


def _counts_gpus(client: Any) -> bool:
    return any(GPU in worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())


# ---------------------------------------------------------------- the cluster


def connected(crew: Crew, bytes_each: int) -> Any:
    """Return a client of the cluster, which has at least one worker; the next stage of a command uses the same."""
    return _connected(crew) if crew.scheduler else _started(crew, max(LEAST_MEMORY, 2 * bytes_each))


@lru_cache(maxsize=1)
def _connected(crew: Crew) -> Any:
    distributed = _imported("distributed")
    try:
        client = distributed.Client(crew.scheduler, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, distributed.TimeoutError) as error:
        raise NndiffError(
            "No Dask scheduler answers there.",
            expected="the address of a scheduler, such as tcp://node1:8786",
            found=str(error).partition("\n")[0],
            where=crew.scheduler,
            remedy="start one with `dask scheduler`, and its workers with `dask worker`",
        ) from None
    atexit.register(client.close)
    try:
        client.wait_for_workers(1, timeout=ARRIVE)
    except distributed.TimeoutError:
        raise NndiffError(
            "The Dask scheduler has no workers.",
            where=crew.scheduler,
            remedy="start some: dask worker ADDRESS --nthreads 1 --nworkers N",
        ) from None
    return _checked(client)


_BEGUN: dict[Crew, Any] = {}  # clusters of a batch system that this command has started


def _started(crew: Crew, memory: int) -> Any:
    if crew not in _BEGUN:
        jobqueue, distributed, dask = _imported("dask_jobqueue"), _imported("distributed"), _imported("dask")
        own = dask.config.get(f"jobqueue.{crew.batch_system}", {})  # ~/.config/dask/jobqueue.yaml
        needed = {"cores": 1, "processes": 1, "memory": f"{memory >> 20} MiB"}
        needed = {key: value for key, value in needed.items() if own.get(key) is None}
        try:
            cluster = getattr(jobqueue, CLUSTERS[crew.batch_system])(**needed)
            cluster.scale(jobs=crew.most or MOST)
        except Exception as error:
            raise NndiffError(
                f"Dask could not start workers in {crew.batch_system}.",
                found=f"{type(error).__name__}: {error}",
                remedy="queue, account and memory of its jobs stand in ~/.config/dask/jobqueue.yaml",
            ) from error
        atexit.register(cluster.close)
        client = distributed.Client(cluster, set_as_default=False)
        atexit.register(client.close)
        tell(f"Waiting for workers in {crew.batch_system}; dashboard: {client.dashboard_link}")
        client.wait_for_workers(1)
        _BEGUN[crew] = _checked(client)
    return _BEGUN[crew]


def _checked(client: Any) -> Any:
    """Return the client if its workers have this version of nndiff."""
    try:
        versions: Mapping[str, str] = client.run(_version)
    except Exception as error:
        raise NndiffError(
            "nndiff does not run on the workers of the cluster.",
            found=f"{type(error).__name__}: {error}",
            remedy="start the workers in the environment in which nndiff is installed",
        ) from error
    others = {worker: version for worker, version in versions.items() if version != VERSION}
    if others:
        worker, version = next(iter(others.items()))
        raise NndiffError(
            "Workers of the cluster have another version of nndiff.",
            expected=VERSION,
            found=f"{version} on {worker}",
            remedy="install the same version everywhere, and start the workers again",
        )
    return client


def _version() -> str:
    return VERSION


def _gone(crew: Crew) -> NndiffError:
    return NndiffError(
        "The cluster is gone.",
        where=crew.scheduler or crew.batch_system,
        remedy="when it runs again, run the same command again; finished cases are kept",
    )


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NndiffError(
            "A cluster needs Dask, which is not installed.",
            found=str(error),
            remedy='install it with: pip install "nndiff[cluster]"',
        ) from error
