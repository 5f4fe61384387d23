"""One fold from its first step, or from its last checkpoint, to its end.

    plan + prepared cases → results/DATASET/CONFIGURATION/fold_K/
        checkpoint_latest.pt, checkpoint_best.pt, progress.csv, progress.png, log.txt, validation/CASE.png

A time budget becomes a number of steps before the first (budget.py); the number is stored in the first checkpoint, and
from there on everything depends on the step counter alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nndiff import checkpoint
from nndiff.assemble import build_augmentations
from nndiff.checkpoint import BEST, LATEST, Checkpoint, Epoch, Run, Seen
from nndiff.imaging import store
from nndiff.plans.plan import Plan, digest
from nndiff.resources.machine import available_cores
from nndiff.resources.memory import usable_bytes
from nndiff.training import journal
from nndiff.training.batches import Batches, loader
from nndiff.training.budget import SAFETY, epoch_steps, rehearsed, within_budget
from nndiff.training.folds import ALL, groups_of, split_of
from nndiff.training.journal import Journal
from nndiff.training.loop import Step, Trainer, share_of, stage_ends
from nndiff.training.ranks import Ranks, joined
from nndiff.training.validation import Example, Scores, Validation
from nndiff.words.errors import NndiffError
from nndiff.words.files import sweep

VALIDATION_CASES = 4
MOST_LOADERS = 8


@dataclass(frozen=True)
class Request:
    plan: Plan
    configuration: str
    fold: str
    prepared: Path  # preprocessed/DATASET
    results: Path  # results/DATASET
    device: torch.device
    seen: tuple[Seen, ...]
    seed: int = 0
    time_budget: float | None = None  # seconds
    go_on: bool = False
    workers: int | None = None  # processes that load data
    begin_with: Path | None = None  # a checkpoint whose weights this one starts from

    @property
    def folder(self) -> Path:
        return self.results / self.configuration / f"fold_{self.fold}"


def train(request: Request) -> Path:
    """Train one fold; returns its folder."""
    began = time.perf_counter()
    with joined(request.device) as ranks:
        return _Fold(request, ranks, began).run()


class _Fold:
    def __init__(self, request: Request, ranks: Ranks, began: float):
        self.request, self.ranks, self.began = request, ranks, began
        self.journal = Journal(request.folder, quiet=not ranks.first)
        self.plan = request.plan
        self.history: tuple[Epoch, ...] = ()
        self.seen = request.seen
        self.warned = False

    def run(self) -> Path:
        self._sweep()
        found = self._found()
        if found is not None:
            self.plan, self.history, self.seen = found.plan, found.history, found.seen
        run = self._settled() if found is None else found.run
        _demand_prepared(self.request, self.plan, run)
        self._demand_same_step(run)
        trainer = self._trainer(run)
        if found is not None:
            checkpoint.demand_fitting(trainer.network, found.weights, self.request.folder / LATEST)
            trainer.restore(found)
            del found
        else:
            self._begin(trainer, aloud=True)
        if trainer.step >= run.training_steps:
            self.journal.write(self.history, run, self._begun_stages(run))
            self.journal.say(f"This fold is trained: {trainer.step} of {run.training_steps} steps are done.")
            return self.request.folder
        validation = self._validation(run)
        self._greet(run, trainer)
        if not self.history:
            self._validate(trainer, validation)  # whatever is wrong with a whole volume shows now, not after an epoch
            self._save(trainer, LATEST)
        self._epochs(trainer, validation)
        return self.request.folder

    # ------------------------------------------------------------ the run

    def _epochs(self, trainer: Trainer, validation: Validation) -> None:
        run = trainer.run
        batches = loader(
            self._batches(run), trainer.step, run.training_steps, self._loaders(), self.request.device.type == "cuda"
        )
        clock, taken = time.perf_counter(), list[Step]()
        for step in trainer.steps(batches):
            taken.append(step)
            if step.number % run.epoch_steps and step.number != run.training_steps:
                continue
            scores, example = self._validate(trainer, validation)
            epoch = self._epoch(taken, scores, time.perf_counter() - clock, run)
            best = all(epoch.score > earlier.score for earlier in self.history)
            self.history = (*self.history, epoch)
            if best:
                self._save(trainer, BEST)
                if example is not None:
                    self.journal.show(example, validation.cases[0], epoch)
            self._save(trainer, LATEST)  # last: whoever is killed before it does this epoch again, all of it
            self._report(trainer, epoch, scores, best)
            clock, taken = time.perf_counter(), []

    def _validate(self, trainer: Trainer, validation: Validation) -> tuple[list[Scores], Example | None]:
        """Every rank takes its share of the cases; the first rank has the first case."""
        mine: list[Scores] = []
        example = None
        with trainer.ema.inside(trainer.network):
            for number in range(self.ranks.rank, len(validation.cases), self.ranks.world):
                scores, shown = validation.of(trainer, number)
                mine.append(scores)
                example = example or shown
        return [scores for share in self.ranks.gathered(mine) for scores in share], example

    def _epoch(self, taken: Sequence[Step], scores: Sequence[Scores], seconds: float, run: Run) -> Epoch:
        def mean(name: str) -> float | None:
            values = [getattr(row, name) for row in scores]
            return None if any(value is None for value in values) else float(np.mean(values))

        losses = self.ranks.gathered([step.loss for step in taken])
        last = taken[-1]
        return Epoch(
            epoch=math.ceil(last.number / run.epoch_steps),
            step=last.number,
            loss=float(np.mean(losses)),
            score=float(np.mean([row.score for row in scores])),
            psnr=mean("psnr"),
            ssim=mean("ssim"),
            mae=mean("mae"),
            baseline_psnr=mean("baseline_psnr"),
            learning_rate=last.learning_rate,
            gradient_norm=float(np.mean([step.gradient_norm for step in taken])),
            seconds=seconds,
            waiting=sum(step.waited for step in taken) / max(1e-9, sum(step.seconds for step in taken)),
        )

    def _report(self, trainer: Trainer, epoch: Epoch, scores: Sequence[Scores], best: bool) -> None:
        run = trainer.run
        self.journal.write(self.history, run, self._begun_stages(run))
        recent = [past.seconds for past in self.history[-5:]]
        left = float(np.median(recent)) * (run.training_steps - epoch.step) / run.epoch_steps
        self.journal.say(journal.line(epoch, run, best, left))
        baseline = float(np.mean([row.baseline for row in scores]))
        warning = journal.not_learning(epoch, run, baseline, trainer.configuration.learning_rate)
        if warning is not None and not self.warned:
            self.journal.say(warning)
        if warning is None and self.warned:
            self.journal.say(f"It learns now: better than without a network at step {epoch.step}.")
        self.warned = warning is not None

    def _begun_stages(self, run: Run) -> list[int]:
        return stage_ends(self.plan.configurations[self.request.configuration], run)[:-1]

    def _save(self, trainer: Trainer, name: str) -> None:
        if not self.ranks.first:
            return
        checkpoint.save(
            self.request.folder / name,
            Checkpoint(
                plan=self.plan,
                configuration=self.request.configuration,
                run=trainer.run,
                seen=self.seen,
                step=trainer.step,
                weights=trainer.weights,
                ema=trainer.ema.values,
                optimizer=trainer.optimizer.state_dict(),
                objectives=dict(trainer.objectives.state_dict()),
                history=self.history,
            ),
        )

    def _greet(self, run: Run, trainer: Trainer) -> None:
        request, size = self.request, sum(weight.numel() for weight in trainer.network.parameters())
        held = "" if run.held_out else " (which are training cases too: their scores flatter)"
        self.journal.say(
            f"{self.plan.dataset} {request.configuration} fold {run.fold}: {len(run.training)} training cases, "
            f"validated on {', '.join(run.validation)}{held}"
        )
        self.journal.say(
            f"{size / 1e6:.1f} M weights on {request.device}, {run.samples_a_step} patches of "
            f"{'x'.join(map(str, trainer.configuration.patch_size))} a step; steps {trainer.step} to "
            f"{run.training_steps}, an epoch is {run.epoch_steps}. Progress: {request.folder / 'progress.png'}"
        )

    def _begin(self, trainer: Trainer, aloud: bool = False) -> None:
        """With another run's weights, where that was asked for."""
        path = self.request.begin_with
        if path is None:
            return
        other = checkpoint.load(
            path, "give a fold's folder, a checkpoint, or a configuration that this fold was trained in"
        )
        spec, factor = trainer.configuration.network, trainer.configuration.puzzle_factor
        if other.planned.puzzle_factor != factor:
            raise NndiffError(
                "The other run has another puzzle: its channels are other voxels.",
                expected=f"puzzle_factor {factor}",
                found=other.planned.puzzle_factor,
                where=path,
            )
        own = trainer.weights
        weights = spec.inherit(own, other.planned.network, other.ema)
        trainer.begin_with(weights)
        new = [name for name, value in weights.items() if value is own[name]]
        parts = sorted({".".join(name.split(".")[:2]) for name in new})
        rest = f"; anew: {', '.join(parts)}" if parts else ""
        if aloud:
            self.journal.say(f"Begun with {len(weights) - len(new)} of {len(weights)} weights of {path}{rest}")

    # ------------------------------------------------------------ its parts

    def _trainer(self, run: Run) -> Trainer:
        return Trainer(self.plan, self.request.configuration, run, self.request.device, self.ranks)

    def _validation(self, run: Run) -> Validation:
        device = self.request.device.type
        memory = self.plan.configurations[self.request.configuration].budget.memory_bytes
        return Validation(
            self.request.prepared / self.request.configuration,
            self.plan,
            self.request.configuration,
            run.validation,
            run.training,
            usable_bytes(memory, device),  # the plan's, not what is free now: a resumed run must not differ
        )

    def _batches(self, run: Run) -> Batches:
        configuration = self.plan.configurations[self.request.configuration]
        return Batches(
            self.request.prepared / self.request.configuration,
            run.training,
            configuration.patch_size,
            share_of(configuration, self.ranks),
            build_augmentations(configuration.augmentation),
            run.seed,
            configuration.network.multiple(configuration.puzzle_factor),
        )

    def _loaders(self) -> int:
        if self.request.workers is not None:
            return self.request.workers
        cores = available_cores()
        return max(1, min(MOST_LOADERS, cores - 1)) if self.request.device.type == "cuda" else min(1, cores - 1)

    def _demand_same_step(self, run: Run) -> None:
        samples = share_of(self.plan.configurations[self.request.configuration], self.ranks).samples_a_step
        if samples != run.samples_a_step:
            raise NndiffError(
                "This run was begun with another number of processes.",
                expected=f"{run.samples_a_step} samples a step",
                found=f"{samples} with {self.ranks.world} processes",
                remedy="go on with as many processes as it was begun with",
            )

    def _sweep(self) -> None:
        if self.ranks.first:
            sweep(self.request.folder)

    def _found(self) -> Checkpoint | None:
        path = self.request.folder / LATEST
        if not path.exists():
            return None
        if not self.request.go_on:
            raise NndiffError(
                "This fold has been trained, or begun, before.",
                where=path,
                remedy="go on with --c, or move the folder away to start anew",
            )
        found = checkpoint.load(path)
        if found.configuration != self.request.configuration:
            raise NndiffError(
                "The checkpoint is of another configuration.",
                expected=self.request.configuration,
                found=found.configuration,
                where=path,
            )
        return found

    # ------------------------------------------------------------ what is settled once

    def _settled(self) -> Run:
        request, configuration = self.request, self.plan.configurations[self.request.configuration]
        groups = groups_of(request.prepared / request.configuration)
        split = None
        for rank in range(self.ranks.world):  # one rank after the other: the first makes splits.json
            if rank == self.ranks.rank:
                split = split_of(request.fold, request.prepared, groups)
            self.ranks.wait()
        assert split is not None
        run = Run(
            fold=request.fold,
            seed=request.seed,
            training=split.train,
            validation=_chosen(split.val, VALIDATION_CASES, request.seed),
            held_out=request.fold != ALL,
            training_steps=configuration.training_steps,
            epoch_steps=epoch_steps(configuration.training_steps),
            warmup_steps=configuration.warmup_steps,
            ema_half_life=configuration.ema_half_life,
            samples_a_step=share_of(configuration, self.ranks).samples_a_step,
        )
        _demand_prepared(request, self.plan, run)
        if request.time_budget is None:
            return run
        step, case = rehearsed(
            self.plan,
            request.configuration,
            run,
            request.device,
            self.ranks,
            self._batches(run),
            self._validation(run),
            request.time_budget,
            self._begin,
        )
        left = request.time_budget - (time.perf_counter() - self.began)
        fitted = within_budget(run, SAFETY * left, step, case)
        self.journal.say(
            f"A step takes {step:.2f} s and a validation case {case:.1f} s: {journal.in_words(left)} make "
            f"{fitted.training_steps} steps (planned without a budget: {run.training_steps})."
        )
        return fitted


def _chosen(cases: Sequence[str], most: int, seed: int) -> tuple[str, ...]:
    """Fixed for the run; drawn, so that they are not the first few of one scanner."""
    order = np.random.default_rng(seed).permutation(len(cases))[:most]
    return tuple(cases[i] for i in sorted(order))


def _demand_prepared(request: Request, plan: Plan, run: Run) -> None:
    """Every case there, and prepared by this very plan."""
    folder = request.prepared / request.configuration
    wanted = digest(plan.preparation(request.configuration))
    for name in (*run.training, *run.validation):
        record = store.read_record(folder, name)
        if record is None or record.get("preparation") != wanted:
            raise NndiffError(
                f"Case {name} is not prepared as the {'checkpoint' if request.go_on else 'plan'} asks.",
                found="no such case" if record is None else "prepared by another plan",
                where=folder,
                remedy=f"nndiff_preprocess -d {plan.dataset[7:10]} -c {request.configuration}",
            )
