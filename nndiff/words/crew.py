"""Who works on the cases of a dataset: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

from dataclasses import dataclass

from nndiff.words.errors import NndiffError

BATCH_SYSTEMS = ("slurm", "pbs", "lsf", "sge")  # in which Dask can start its workers


@dataclass(frozen=True)
class Crew:
    """At most so many workers, here or, if `scheduler` or `batch_system` is given, in a cluster."""

    most: int | None = None  # None: as many as cores and memory allow, or as the cluster has; 0: none, in this process
    scheduler: str = ""  # address of a Dask scheduler, tcp://host:port
    batch_system: str = ""  # one of BATCH_SYSTEMS: Dask starts workers in it

    def __post_init__(self) -> None:
        if self.scheduler and self.batch_system:
            raise NndiffError(
                "The cluster must be named in one way.",
                found=f"--scheduler {self.scheduler} and --cluster {self.batch_system}",
                remedy="leave out one of them",
            )
        if self.batch_system and self.batch_system not in BATCH_SYSTEMS:
            raise NndiffError(
                "Dask cannot start workers there.",
                expected=", ".join(BATCH_SYSTEMS),
                found=self.batch_system,
                remedy="start a Dask cluster by its own tools, and pass the address of its scheduler (--scheduler)",
            )
        if self.elsewhere and self.most == 0:
            raise NndiffError("A cluster needs workers.", expected="-np 1 or more", found="-np 0")

    @property
    def elsewhere(self) -> bool:
        return bool(self.scheduler or self.batch_system)


Workers = Crew | int | None  # a number is a crew of so many on this machine


def crew_of(workers: Workers) -> Crew:
    return workers if isinstance(workers, Crew) else Crew(workers)
