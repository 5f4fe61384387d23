"""Saving between the steps of an epoch: every few minutes, and when a signal asks the training to stop.

A signal waits for the end of the step. In a validation it takes effect at once, since no step is under way. Several
processes stop after the same step: they agree after every step, and in a validation after every round of cases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NoReturn

from nndiff.checkpoint import Step
from nndiff.training.epochs import Pauses
from nndiff.training.ranks import Ranks
from nndiff.words.stopping import Held, Stopped

MINUTES = 10.0  # after which the state is saved within an epoch


class Saving(Pauses):
    def __init__(self, stop: Held, ranks: Ranks, save: Callable[[Sequence[Step]], None]):
        self.stop, self.ranks, self.save = stop, ranks, save
        self.saved = time.monotonic()

    def between(self, taken: Sequence[Step]) -> None:
        if signum := self._agreed():
            self._save_and_raise(taken, signum)
        if time.monotonic() - self.saved > 60 * MINUTES:
            self.save(taken)
            self.saved = time.monotonic()

    @contextmanager
    def while_validating(self, taken: Sequence[Step]) -> Iterator[Callable[[], None]]:
        def after_round() -> None:
            if self.ranks.world > 1 and (signum := self._agreed()):
                raise Stopped(signum)

        try:
            with self.stop.at_once() if self.ranks.world == 1 else nullcontext():
                yield after_round
        except Stopped as stopped:
            self._save_and_raise(taken, stopped.signum)
        self.saved = time.monotonic()  # the caller saves after every epoch

    def _save_and_raise(self, taken: Sequence[Step], signum: int) -> NoReturn:
        self.save(taken)
        self.ranks.wait()  # the first process that ends lets torchrun end the others
        raise Stopped(signum, saved=True)

    def _agreed(self) -> int:
        """Return the signal that any of the processes has received, or 0."""
        return self.ranks.largest(self.stop.asked or 0)
