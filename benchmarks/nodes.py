"""How many workers translate so many scans in so much time: a cost model, and a simulation that checks it.

    python -m benchmarks.nodes --cases 100000 --seconds 1.2 [--load 6] [--spread 0.5] [--failures 0.01] [--hours 24]

A worker takes parts of the folder, one after the other, as `nndiff_predict --scheduler` does it. With P parts of m
cases, c seconds a case and l to load the model, a part takes p = l + m·c. A worker dies f times an hour; the part is
lost, half of it on average, and the worker comes back after a minute. On n workers

    T = P·p/n · (1 + f·(p/2 + 60)) + (1 - 1/n)·p/2         all of the work, then on average half a part until the last

The simulation draws the seconds of every case (log-normal, with `spread`) and the lives of workers (exponential), and
gives each free worker the next part. Time nndiff_predict on one scan and on eleven: a tenth of the difference is c, and
what the first took beyond c is l.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import numpy as np

from nndiff.prediction.parts import count_of
from nndiff.words.text_table import text_table

COMES_BACK = 60.0  # seconds until a worker that died works again
TRIALS = 20
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Work:
    cases: int
    seconds: float  # a case
    load: float = 6.0  # seconds until a worker has begun a part: starting, and reading the model
    spread: float = 0.5  # standard deviation of the logarithm of a case's seconds
    failures: float = 0.01  # deaths of a worker an hour

    @property
    def parts(self) -> int:
        return count_of(self.cases)

    @property
    def part(self) -> float:
        """The seconds of a part."""
        return self.load + self.cases / self.parts * self.seconds

    def predicted(self, workers: int) -> float:
        """Return the seconds that the closed form gives."""
        busy = min(workers, self.parts)
        lost = self.failures / 3600 * (self.part / 2 + COMES_BACK)
        return self.parts * self.part / busy * (1 + lost) + (1 - 1 / busy) * self.part / 2

    def simulated(self, workers: int, seed: int) -> float:
        """Return the seconds of one simulated run."""
        rng = np.random.default_rng(seed)
        sizes = [len(range(i, self.cases, self.parts)) for i in range(self.parts)]
        waiting = sizes[::-1]
        free = [0.0] * workers
        dies = [self._life(rng) for _ in range(workers)]
        heap = [(0.0, i) for i in range(workers)]
        while waiting and heap:
            now, i = heapq.heappop(heap)
            size = waiting.pop()
            ends = now + self.load + float(self._durations(rng, size).sum())
            if ends > dies[i]:  # its part waits again, for whoever is free
                waiting.append(size)
                back = max(now, dies[i]) + COMES_BACK
                dies[i] = back + self._life(rng)
                heapq.heappush(heap, (back, i))
            else:
                free[i] = ends
                heapq.heappush(heap, (ends, i))
        return max(free)

    def _durations(self, rng: np.random.Generator, size: int) -> np.ndarray:
        mean = math.log(self.seconds) - self.spread**2 / 2  # so that the mean is `seconds`
        return rng.lognormal(mean, self.spread, size)

    def _life(self, rng: np.random.Generator) -> float:
        return float(rng.exponential(3600 / self.failures)) if self.failures else math.inf


def rows(work: Work, workers: Sequence[int], trials: int = TRIALS) -> Iterator[tuple[int, float, float, float]]:
    """Yield (workers, hours by the closed form, median of the simulation, 95th percentile of it)."""
    for n in workers:
        runs = [work.simulated(n, seed) / 3600 for seed in range(trials)]
        yield n, work.predicted(n) / 3600, median(runs), quantiles(runs, n=20)[-1]


def needed(work: Work, hours: float) -> int:
    """Return the fewest workers that finish in time by the closed form; more than parts do not help."""
    return next((n for n in range(1, work.parts + 1) if work.predicted(n) <= 3600 * hours), work.parts)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="per case")
    parser.add_argument("--load", type=float, default=6.0, help="seconds to start and to load the model, per part")
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--failures", type=float, default=0.01, help="deaths of a worker an hour")
    parser.add_argument("--hours", type=float, default=24.0, help="until when it has to be done")
    arguments = parser.parse_args(argv)
    work = Work(arguments.cases, arguments.seconds, arguments.load, arguments.spread, arguments.failures)
    lines = [["workers", "hours", "simulated", "95th percentile"]]
    lines += [[str(n), *(f"{value:.2f}" for value in values)] for n, *values in rows(work, WORKERS)]
    print(text_table(lines))
    print(f"\nIn {arguments.hours:g} h: {needed(work, arguments.hours)} workers, for {work.parts} parts.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
