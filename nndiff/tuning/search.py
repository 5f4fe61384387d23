"""The search for a sampler: rounds within a time budget, the choice, and the report on cases that did not choose.

best      the sampler with the highest mean score
chosen    the sampler of the fewest evaluations that is behind the best, on average over the cases, by at most the
          standard error of this difference, or by at most 0.05

Evaluations are counted and not timed, so that the same cases and weights lead to the same choice whenever the time is
enough for every candidate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nndiff.sampling import dial as dials
from nndiff.sampling.dial import Point, Stop
from nndiff.sampling.inference import Drawn, Inference
from nndiff.tuning.candidates import Round, rounds, without_caches
from nndiff.tuning.draws import drawn
from nndiff.tuning.measure import Bench, Measured
from nndiff.walk.caches import Deep, listed_steps
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.version import versions

# The penalty, in dB of PSNR, for one decibel of distance from the truth's texture.
OBJECTIVES = {"fidelity": 0.05, "balanced": 0.25, "texture": 1.0}
LONG, CASES_OF_LONG = 250, 2  # a walk of more steps than LONG is measured on CASES_OF_LONG cases only
NOBODY_SEES = 0.05  # a difference of scores up to this is invisible and counts as none, however significant it is
CASES_DRAWN, DRAWN = 2, 8  # cases on which the spread of draws is measured, and the number of draws
LISTS = (0.05, 0.1, 0.2, 0.4)  # thresholds on the relative change of the kept feature since the last full step

OnMeasured = Callable[[Measured], None]


@dataclass
class Search:
    """A search within a time budget; it collects the measured samplers in `rows`."""

    bench: Bench
    cases: Sequence[str]  # the cases for the choice
    budget: float  # seconds
    objective: str = "balanced"
    at_most: float | None = None  # limit on the seconds per volume of the chosen sampler

    def __post_init__(self) -> None:
        self.rows: list[Measured] = []
        self.left_out: list[SamplerPlan] = []
        self._began = time.perf_counter()
        self._evaluation = 0.0  # seconds of one network evaluation, from the last measurement

    @property
    def texture(self) -> float:
        return OBJECTIVES[self.objective]

    def run(self, planned: SamplerPlan, on_measured: OnMeasured = lambda _: None) -> Measured:
        """Measure the planned sampler, then those of all rounds, and return the chosen one."""
        self._measure(planned, on_measured)
        for stop in dials.planned(self.bench.model.configuration):  # both ends first, so that they are always measured
            self._try(stop.sampler, on_measured)
        for a_round in rounds(self.bench.model.setting):
            self._round(a_round, on_measured)
        self._lists(on_measured)
        return self.chosen()

    def best(self) -> Measured:
        return self._best_of(self.rows)

    def chosen(self) -> Measured:
        allowed = self.rows
        if self.at_most is not None:
            allowed = [row for row in self.rows if row.cost <= self.at_most] or [min(self.rows, key=_seconds)]
        best = self._best_of(allowed)
        return min((row for row in allowed if self.as_good(row, best)), key=_work)

    def _best_of(self, rows: Sequence[Measured]) -> Measured:
        best = rows[0]
        for row in rows[1:]:
            if self._behind(best, row)[0] > 0:
                best = row
        return best

    def as_good(self, row: Measured, best: Measured) -> bool:
        behind, error = self._behind(row, best)
        return behind <= max(error, NOBODY_SEES)

    def _behind(self, row: Measured, other: Measured) -> tuple[float, float]:
        return behind(row, other, self.texture)

    # ------------------------------------------------------------ rounds

    def _round(self, a_round: Round, on_measured: OnMeasured) -> None:
        candidates = sorted(a_round(self.best().sampler), key=self.bench.work)
        for sampler in candidates:
            self._try(sampler, on_measured)

    def _lists(self, on_measured: OnMeasured) -> None:
        """Try caches whose full steps are listed where the feature was measured to change.

        The changes are the maxima over two cases.
        """
        best = self.best().sampler
        keeps = self.bench.model.configuration.network.reuse_depths > 0
        if not keeps or best.steps < 4 or best.steps > LONG or not self._affords(without_caches(best), 2):
            return
        depth = best.part(Deep).depth
        changes = np.max([self.bench.changes(best, case, depth) for case in self.cases[:CASES_OF_LONG]], axis=0)
        lists = {listed_steps(list(changes), most) for most in LISTS}
        for listed in sorted(lists, key=len):
            if 1 < len(listed) < best.steps:
                self._try(best.with_part(Deep(1, depth, listed)), on_measured)

    def stops(self) -> tuple[Stop, ...]:
        """Return the measured samplers from the mean to the texture: those of one draw, on all cases."""
        rows = [row.row(self.texture) for row in self.rows if row.sampler.samples == 1]
        rows = [row for row in rows if row.cases == len(self.cases) and row.texture_db is not None]
        return dials.measured([Point(row.sampler, row.psnr, row.texture_db or 0.0) for row in rows])

    def drawn(self, stops: Sequence[Stop], others: Sequence[str]) -> Drawn | None:
        """Return what several draws at the texture's end say of its spread, if there is time for them."""
        if len(stops) < 2 or not stops[-1].sampler.is_random(self.bench.model.setting):
            return None
        cases, reported = self.cases[:CASES_DRAWN], others[:CASES_DRAWN]
        several = replace(stops[-1].sampler, samples=DRAWN)
        if not self._affords(several, len(cases) + len(reported)):
            self.left_out.append(several)
            return None
        return drawn(self.bench, several, stops[0].sampler, cases, reported)

    def _try(self, sampler: SamplerPlan, on_measured: OnMeasured) -> None:
        if any(row.sampler == sampler for row in self.rows):
            return
        if self._affords(sampler, self._count(sampler)):
            self._measure(sampler, on_measured)
        else:
            self.left_out.append(sampler)

    def _measure(self, sampler: SamplerPlan, on_measured: OnMeasured) -> None:
        row = self.bench.measure(sampler, self.cases[: self._count(sampler)])
        self.rows.append(row)
        self._evaluation = row.cost / row.work
        on_measured(row)

    def _count(self, sampler: SamplerPlan) -> int:
        return CASES_OF_LONG if sampler.steps > LONG else len(self.cases)

    def _affords(self, sampler: SamplerPlan, cases: int) -> bool:
        expected = self.bench.work(sampler) * self._evaluation * cases
        return time.perf_counter() - self._began + expected <= self.budget


def behind(row: Measured, other: Measured, texture: float) -> tuple[float, float]:
    """Return how much higher `other` scores, and the standard error of this difference (0 for one case).

    The difference is the mean over the cases that both were measured on.
    """
    a, b = row.scores(texture), other.scores(texture)
    differences = np.array([b[case] - a[case] for case in a if case in b])
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return float(differences.mean()), error


def tune(
    search: Search,
    planned: SamplerPlan,
    others: Sequence[str],  # the cases for the report; if empty, those of the choice are used
    checkpoint: str,
    weights: str,
    on_measured: OnMeasured = lambda _: None,
) -> Inference:
    if search.bench.plan.task == "generation":
        raise NndiffError(
            "A model that generates cannot be tuned, because its volumes have no true target.",
            remedy="pass --steps to nndiff_predict, and compare the volumes by eye",
        )
    chosen = search.run(planned, on_measured)
    best = search.best()
    cases = tuple(others) or tuple(search.cases)
    there = {} if others else {row.sampler: row for row in search.rows}
    samplers = list(dict.fromkeys([chosen.sampler, best.sampler, planned]))
    rows = {sampler: there.get(sampler) or search.bench.measure(sampler, cases) for sampler in samplers}
    difference, error = behind(rows[chosen.sampler], rows[best.sampler], search.texture)
    spread = search.drawn(stops := search.stops(), others)
    return Inference(
        checkpoint=checkpoint,
        weights=weights,
        objective=search.objective,
        sampler=chosen.sampler,
        best=best.sampler,
        planned=planned,
        chosen_on=tuple(search.cases),
        reported_on=cases,
        sweep=tuple(row.row(search.texture) for row in sorted(search.rows, key=_work)),
        report=tuple(rows[sampler].row(search.texture) for sampler in samplers),
        dial=stops,
        untried=len(search.left_out),
        drawn=spread,
        best_minus_chosen=difference,
        standard_error=error,
        versions=versions(),
    )


def frontier(rows: Sequence[Measured], texture: float) -> list[Measured]:
    """Return the Pareto front of seconds and score, fastest first."""
    ordered = sorted(rows, key=_seconds)
    kept = ordered[:1]
    for row in ordered[1:]:
        if behind(kept[-1], row, texture)[0] > 0:
            kept.append(row)
    return kept


def _work(row: Measured) -> float:
    return row.work


def _seconds(row: Measured) -> float:
    return row.cost
