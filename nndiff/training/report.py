"""The report of one run: its start, every epoch, and the alarms (alarms.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nndiff.checkpoint import Epoch
from nndiff.training import journal
from nndiff.training.alarms import alarms
from nndiff.training.epochs import Ended
from nndiff.training.job import Job
from nndiff.training.journal import Journal
from nndiff.training.loop import Trainer, stage_ends
from nndiff.words.version import versions

RECENT = 5  # number of last epochs whose median duration gives the time left


class Report:
    """A reporter that writes into the journal of one run and remembers the alarms of the last epoch."""

    def __init__(self, journal: Journal, job: Job, trainer: Trainer):
        self.journal, self.job, self.trainer, self.run = journal, job, trainer, trainer.run
        self.stages = stage_ends(trainer.configuration, trainer.run)[:-1]  # first step of each stage but the first
        self.warned = set[str]()  # names of the alarms that hold
        self.slow = False  # whether it was said that steps are not recorded

    def start(self) -> None:
        """Report what is trained, on which cases, and for how many steps."""
        request, run, trainer = self.job.request, self.run, self.trainer
        size = sum(weight.numel() for weight in trainer.network.parameters())
        self.journal.say(", ".join(f"{name} {version}" for name, version in versions().items()))
        held = "" if run.held_out else " (also training cases, so their scores are too good)"
        self.journal.say(
            f"{self.job.plan.dataset} {request.configuration} fold {run.fold}: {len(run.training)} training cases, "
            f"validation on {', '.join(run.validation)}{held}"
        )
        self.journal.say(
            f"{size / 1e6:.1f} M weights on {request.device}; {run.samples_a_step} patches of "
            f"{'x'.join(map(str, trainer.configuration.patch_size))} per step; steps {trainer.step} to "
            f"{run.training_steps}, {run.epoch_steps} per epoch. Progress: {request.folder / 'progress.png'}"
        )

    def draw(self, history: Sequence[Epoch], ended: Ended, best: bool) -> None:
        """Write progress.csv and the figures; `history` ends with this epoch."""
        if best and ended.example is not None:
            self.journal.show(ended.example, self.run.validation[0], ended.epoch)
        self.journal.write(history, self.run, self.stages)

    def tell(self, history: Sequence[Epoch], ended: Ended, best: bool) -> None:
        """Write one line on this epoch to the log, and the alarms."""
        epoch, run = ended.epoch, self.run
        recent = [past.seconds for past in history[-RECENT:]]
        left = float(np.median(recent)) * (run.training_steps - epoch.step) / run.epoch_steps
        self.journal.say(journal.line(epoch, run, best, left))
        if epoch.losses:
            self.journal.say(journal.losses(epoch))
        refused = self.trainer.recorder.refused
        if refused and not self.slow:
            self.slow = True
            self.journal.say(f"Steps are right, but slow: they run without a CUDA graph ({refused}).")
        self._warn(history, ended.baseline)

    def stopped(self, by: str) -> None:
        """Report why the training stops before its end."""
        step, steps = self.trainer.step, self.run.training_steps
        self.journal.say(f"Stopped by {by} after step {step} of {steps}; every step is saved.")

    def already_trained(self, history: Sequence[Epoch]) -> None:
        """Write progress.csv and progress.png again, and report that no step is left."""
        self.journal.write(history, self.run, self.stages)
        self.journal.say(
            f"The training of this fold is complete: {self.trainer.step} of {self.run.training_steps} steps."
        )

    def _warn(self, history: Sequence[Epoch], baseline: float) -> None:
        """Report each alarm once when it begins, and once when it no longer holds."""
        found = alarms(history, self.run, baseline, self.trainer.configuration, [0, *self.stages])
        for name, words in found.items():
            if name not in self.warned:
                self.journal.say(words)
        for name in self.warned - found.keys():
            if name == "not learning":
                self.journal.say(f"The network learns now: at step {history[-1].step} it is better than no network.")
            else:
                self.journal.say(f"No longer: {name}, at step {history[-1].step}.")
        self.warned = set(found)
