"""A training job: the request, the processes that share it, and the plan that holds; it builds what a run needs.

    request + plan + run → Trainer, Batches, Validation

The plan is the request's for a new training, the checkpoint's for one that goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nndiff.assemble import build_augmentations
from nndiff.checkpoint import Checkpoint, Run, Seen
from nndiff.imaging import store
from nndiff.plans.plan import Configuration, Plan, digest
from nndiff.resources.machine import available_cores
from nndiff.resources.memory import usable_bytes
from nndiff.training.batches import Batches, Share
from nndiff.training.loop import Trainer, share_of
from nndiff.training.ranks import Ranks
from nndiff.training.request import Request
from nndiff.training.validation import Validation
from nndiff.words.errors import NndiffError

MOST_LOADERS = 8


@dataclass(frozen=True)
class Job:
    request: Request
    ranks: Ranks
    plan: Plan
    seen: tuple[Seen, ...]

    @classmethod
    def of(cls, request: Request, ranks: Ranks, found: Checkpoint | None) -> Job:
        """Return the job that goes on from `found`, or a new one."""
        if found is None:
            return cls(request, ranks, request.plan, request.seen)
        return cls(request, ranks, found.plan, found.seen)

    @property
    def name(self) -> str:
        return self.request.configuration

    @property
    def configuration(self) -> Configuration:
        return self.plan.configurations[self.name]

    @property
    def cases(self) -> Path:
        """The folder of the prepared cases."""
        return self.request.prepared / self.name

    @property
    def share(self) -> Share:
        """What this process computes of each step."""
        return share_of(self.configuration, self.ranks)

    # ------------------------------------------------------------ what a run needs

    def trainer(self, run: Run) -> Trainer:
        """Build the network with fresh weights, its moving average and its optimiser."""
        return Trainer(plan=self.plan, name=self.name, run=run, device=self.request.device, ranks=self.ranks)

    def batches(self, run: Run) -> Batches:
        """Build the training batches of this process, by step."""
        configuration = self.configuration
        return Batches(
            folder=self.cases,
            cases=run.training,
            patch=configuration.patch_size,
            share=self.share,
            augmentations=build_augmentations(configuration.augmentation),
            seed=run.seed,
            multiple=configuration.network.multiple(configuration.puzzle_factor),
        )

    def validation(self, run: Run) -> Validation:
        """Build the validation on the run's held-out cases."""
        memory = self.configuration.budget.memory_bytes
        return Validation(
            folder=self.cases,
            plan=self.plan,
            name=self.name,
            cases=run.validation,
            training=run.training,
            # the plan's memory, not what is free now: a resumed run must not differ
            usable_bytes=usable_bytes(memory, self.request.device.type),
        )

    def loaders(self) -> int:
        """Return how many processes load data: the number asked for, else what device and cores allow."""
        if self.request.workers is not None:
            return self.request.workers
        cores = available_cores()
        return max(1, min(MOST_LOADERS, cores - 1)) if self.request.device.type == "cuda" else min(1, cores - 1)

    # ------------------------------------------------------------ what a run must agree with

    def demand_prepared(self, run: Run) -> None:
        """Refuse a case that is missing or was prepared by another plan."""
        wanted = digest(self.plan.preparation(self.name))
        for case in (*run.training, *run.validation):
            record = store.read_record(self.cases, case)
            if record is None or record.get("preparation") != wanted:
                raise NndiffError(
                    f"Case {case} is not prepared as the {'checkpoint' if self.request.go_on else 'plan'} asks.",
                    found="no such case" if record is None else "prepared by another plan",
                    where=self.cases,
                    remedy=f"nndiff_preprocess -d {self.plan.dataset[7:10]} -c {self.name}",
                )

    def demand_same_step(self, run: Run) -> None:
        """Refuse another number of samples per step than the run was begun with."""
        samples = self.share.samples_a_step
        if samples != run.samples_a_step:
            raise NndiffError(
                "This run was begun with another number of processes.",
                expected=f"{run.samples_a_step} samples a step",
                found=f"{samples} with {self.ranks.world} processes",
                remedy="go on with as many processes as it was begun with",
            )
