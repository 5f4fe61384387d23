"""The schedule of a prediction: while one case is computed, the next is read and the previous one is written.

    read                    compute                                 write
    (a thread)              (main thread)                           (a thread)

At most three cases are in memory. A case that fails is reported, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from nndiff.prediction.draws import Computed
from nndiff.prediction.inputs import InputCase
from nndiff.prediction.reading import Read
from nndiff.resources.outcomes import Failure, guarded
from nndiff.resources.progress import bar


@dataclass(frozen=True)
class Schedule:
    """The three stages of a case, and a function for its outcome; a case that fails skips the later stages."""

    read: Callable[[InputCase], Read]
    compute: Callable[[InputCase, Read, Callable[[float], object]], Computed]  # tells the last one shares of a step
    write: Callable[[InputCase, Computed], dict[str, Any]]
    finish: Callable[[str, dict[str, Any] | Failure], None]  # in the order of the cases
    steps: int  # steps per case, for the progress bar

    def run(self, cases: Sequence[InputCase], quiet: bool) -> None:
        """Run all stages of every case."""
        shown = bar(len(cases) * self.steps, "Predict", "step", quiet)
        with shown, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            ahead = reader.submit(self._read, cases[0]) if cases else None
            behind: Future[None] | None = None
            for i, case in enumerate(cases):
                assert ahead is not None
                there = ahead.result()
                ahead = reader.submit(self._read, cases[i + 1]) if i + 1 < len(cases) else None
                shown.set_postfix_str(case.name)
                outcome: Computed | Failure
                if isinstance(there, Failure):
                    outcome = there
                else:
                    outcome = guarded(case.name, partial(self.compute, case, there, shown.update))
                del there  # what was read is not needed while it is written
                if behind is not None:
                    behind.result()
                behind = writer.submit(self._written, case, outcome)
                shown.n = (i + 1) * self.steps  # a failed case has not advanced the bar
            if behind is not None:
                behind.result()

    def _read(self, case: InputCase) -> Read | Failure:
        return guarded(case.name, partial(self.read, case))

    def _written(self, case: InputCase, outcome: Computed | Failure) -> None:
        row = outcome if isinstance(outcome, Failure) else guarded(case.name, partial(self.write, case, outcome))
        self.finish(case.name, row)
