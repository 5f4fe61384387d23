"""A training job: the request, its processes and its plan, from which it builds the objects that a run needs.

    request + plan + run → Trainer, Batches, Validation

A new training uses the plan of the request, a resumed one the plan of its checkpoint.
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
DEVICES = {"cuda": "an NVIDIA GPU", "cpu": "a CPU", "mps": "an Apple GPU"}


@dataclass(frozen=True)
class Job:
    """One training, as one of its processes sees it."""

    request: Request
    ranks: Ranks
    plan: Plan
    seen: tuple[Seen, ...]

    @classmethod
    def of(cls, request: Request, ranks: Ranks, found: Checkpoint | None) -> Job:
        """Return the job that resumes from `found`, or a new one if it is None."""
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
        """Return the folder of the prepared cases."""
        return self.request.prepared / self.name

    def share(self, run: Run | None = None) -> Share:
        """Return the samples of each step, of a new run or of a known one, that this process computes."""
        return share_of(self.configuration, self.ranks, None if run is None else run.samples_a_step)

    # ------------------------------------------------------------ what a run needs

    def trainer(self, run: Run) -> Trainer:
        """Return a trainer: the network with fresh weights, its moving average and its optimiser."""
        return Trainer(plan=self.plan, name=self.name, run=run, device=self.request.device, ranks=self.ranks)

    def batches(self, run: Run) -> Batches:
        """Return the training batches of this process, by step."""
        configuration = self.configuration
        return Batches(
            folder=self.cases,
            cases=run.training,
            patch=configuration.patch_size,
            share=self.share(run),
            augmentations=build_augmentations(configuration.augmentation),
            seed=run.seed,
            multiple=configuration.network.multiple(configuration.puzzle_factor),
            puzzle_factor=configuration.puzzle_factor,
        )

    def validation(self, run: Run) -> Validation:
        """Return the validation on the validation cases of the run."""
        memory = self.configuration.budget.memory_bytes
        return Validation(
            folder=self.cases,
            plan=self.plan,
            name=self.name,
            cases=run.validation,
            training=run.training,
            # The memory of the plan, not the memory that is free now, because a resumed run must give the same result.
            usable_bytes=usable_bytes(memory, self.request.device.type),
        )

    def loaders(self) -> int:
        """Return the number of processes that load data: the requested one, else one that suits device and cores."""
        if self.request.workers is not None:
            return self.request.workers
        cores = available_cores()
        return max(1, min(MOST_LOADERS, cores - 1)) if self.request.device.type == "cuda" else min(1, cores - 1)

    def planned_for_another_device(self) -> str | None:
        """Return what it means that the plan was made for another kind of device, or None if it was not."""
        planned, here = self.configuration.budget.device, self.request.device.type
        if planned == here:
            return None
        slow = {
            "cuda": "it may leave most of the GPU idle",
            "cpu": f"steps may take many times as long as planned, above all in {self.configuration.precision}",
        }.get(here, "time and memory may differ from what was predicted")
        return (
            f"{self.name} was planned for {DEVICES[planned]} and is trained on {DEVICES[here]}: {slow}. "
            "To plan for this machine, run nndiff_plan_and_preprocess here."
        )

    # ------------------------------------------------------------ what a run must agree with

    def demand_prepared(self, run: Run) -> None:
        """Refuse the run if a case is missing, damaged or was prepared by another plan; each rank reads its share."""
        wanted = digest(self.plan.preparation(self.name))
        cases = dict.fromkeys((*run.training, *run.validation))
        for number, case in enumerate(cases):
            record = store.read_record(self.cases, case)
            if record is None or record.get("preparation") != wanted:
                raise NndiffError(
                    f"Case {case} does not match the {'checkpoint' if self.request.go_on else 'plan'}.",
                    found="no such case" if record is None else "a case preprocessed with another plan",
                    where=self.cases,
                    remedy=f"run nndiff_preprocess -d {self.plan.dataset[7:10]} -c {self.name}",
                )
            if number % self.ranks.world == self.ranks.rank:
                store.open_case(self.cases, case)

    def demand_same_step(self, run: Run) -> None:
        """Refuse a number of processes among which the samples of a step, fixed at its start, cannot be divided."""
        samples = self.share(run).samples_a_step
        if samples != run.samples_a_step:
            batch = self.configuration.batch_size
            possible = [n for n in range(1, run.samples_a_step + 1) if run.samples_a_step % (n * batch) == 0]
            raise NndiffError(
                "The samples of a step of this run cannot be divided among so many processes.",
                expected=f"{' or '.join(map(str, possible))} processes for {run.samples_a_step} samples in batches of "
                f"{batch}",
                found=f"{self.ranks.world} processes",
                remedy="continue with one of these numbers (torchrun --nproc_per_node=N)",
            )
