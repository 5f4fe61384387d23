"""Compare configurations on the cases that none of their folds trained on, and advise one.

    score = PSNR + 20·SSIM                                        of a case; in two folds of a configuration: the mean
    d_p   = mean over the cases of patient p of score - score of the best
    mean(d_p) ± t(0.975, n - 1) · std(d_p) / √n                    Student 1908; exact for normal d_p, also for few

Differences are paired by case, so how difficult a case is cancels. Cases of one patient are not independent, so the
interval counts its n patients. All figures of a table weight patients equally, so that differences are those of scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, stdev

from nndiff.sampling.scoring import Figures, mean_of
from nndiff.words.best import Averages, Best, Fold, Row
from nndiff.words.errors import NndiffError
from nndiff.words.version import versions

CONFIDENCE = 0.95
FIGURES = ("psnr", "ssim", "mae", "texture_db")
SHOWN = 5  # names of cases in a message
FASTER = 0.9  # share of the seconds below which a configuration is called faster: timings scatter


@dataclass(frozen=True)
class Trial:
    """A fold and its figures on cases that it did not train on."""

    fold: str
    weights: str
    step: int
    steps: int
    device: str
    figures: Mapping[str, Figures]  # case → figures
    seconds: Mapping[str, float]  # case → seconds
    failed: Mapping[str, str] = field(default_factory=dict)  # case → reason


@dataclass(frozen=True)
class Candidate:
    """A configuration with its folds."""

    name: str
    trials: tuple[Trial, ...]
    prediction_bytes: int

    @property
    def held_out(self) -> set[str]:
        return {case for trial in self.trials for case in (*trial.figures, *trial.failed)}

    def failures(self) -> dict[str, str]:
        """Return the cases that a fold could not translate or measure, or whose score is infinite, with the reason."""
        found: dict[str, str] = {}
        for trial in self.trials:
            reasons = {case: reason.partition("\n")[0] for case, reason in trial.failed.items()}
            endless = (case for case, each in trial.figures.items() if not math.isfinite(each.score()))
            reasons |= dict.fromkeys(endless, "the score is infinite or undefined")
            found |= {case: f"failed in {self.name}, fold {trial.fold}: {words}" for case, words in reasons.items()}
        return found

    def figures(self, case: str) -> Figures:
        """Return the figures of a held-out case; the mean, if it was held out by several folds."""
        return _mean([trial.figures[case] for trial in self.trials if case in trial.figures])

    def seconds(self, case: str) -> float:
        return fmean(trial.seconds[case] for trial in self.trials if case in trial.seconds)


def compare(candidates: Sequence[Candidate], patients: Mapping[str, str]) -> Best:
    """Return the comparison.  patients: {case: patient} of all cases that may be compared."""
    candidates = sorted(candidates, key=lambda each: each.name)
    left_out = _left_out(candidates, patients)
    cases = {case: patients[case] for case in sorted(patients) if case not in left_out}
    if not cases:
        raise NndiffError(
            "There is no case that all compared configurations have held out.",
            found="; ".join(f"{each.name}: {some(sorted(each.held_out))}" for each in candidates),
            remedy="train the same folds of each configuration, or name fewer configurations with -c",
        )
    rows = _rows(candidates, cases, patients)
    devices = sorted({trial.device for candidate in candidates for trial in candidate.trials})
    return Best(
        configuration=rows[0].configuration,
        folds=tuple(fold.fold for fold in rows[0].folds),
        advice=advice(rows, len(set(cases.values())), devices),
        rows=rows,
        cases=cases,
        left_out=left_out,
        devices=tuple(devices),
        versions=versions(),
    )


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of independent differences; None for a single one."""
    if len(differences) < 2:
        return None
    from scipy import stats

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * stdev(differences)
    half /= math.sqrt(len(differences))
    return fmean(differences) - half, fmean(differences) + half


def by_patient(values: Mapping[str, float], patients: Mapping[str, str]) -> list[float]:
    """Return the mean over the cases of each patient, of the values that are defined."""
    groups: dict[str, list[float]] = {}
    for case, value in values.items():
        groups.setdefault(patients[case], []).append(value)
    return [mean_of(groups[patient]) for patient in sorted(groups)]


def advice(rows: Sequence[Row], patients: int, devices: Sequence[str]) -> str:
    """Return which configuration to use, by how much it is better, and whether a faster one is as good."""
    best, *others = rows
    if not others:
        return f"Use {best.configuration}, the only configuration that was compared."
    second = others[0]
    margin = f"its score is {-second.difference:.2f} above that of {second.configuration}, the next best"
    words = f"Use {best.configuration}: {margin}, {_clearness(second, patients)}."
    rivals = [row for row in others if not row.clearly_worse and row.seconds < FASTER * best.seconds]
    if patients > 1 and rivals and len(devices) == 1:
        fast = min(rivals, key=lambda row: (row.seconds, row.configuration))
        words += (
            f" {fast.configuration} is not clearly worse, and takes {fast.seconds / best.seconds:.2g} times "
            f"the seconds per volume."
        )
    return words


def _clearness(row: Row, patients: int) -> str:
    if row.interval is None:
        return "but with a single patient there is no interval, so it is not known whether the difference is clear"
    low, high = (-end for end in reversed(row.interval))
    within = f"(95 % interval {low:.2f} to {high:.2f}, {patients} patients)"
    if row.clearly_worse:
        return f"and the difference is clear {within}"
    return f"but the difference is not clear {within}"


def _rows(candidates: Sequence[Candidate], shared: Mapping[str, str], patients: Mapping[str, str]) -> tuple[Row, ...]:
    """Return a row per configuration, the best first.  shared, patients: {case: patient} of shared and of all cases."""
    figures = {each.name: {case: each.figures(case) for case in shared} for each in candidates}
    means = {name: averages(own, shared) for name, own in figures.items()}
    seconds = {each.name: median(each.seconds(case) for case in shared) for each in candidates}
    ranked = sorted(candidates, key=lambda each: (-means[each.name].score, seconds[each.name], each.name))
    best = figures[ranked[0].name]
    rows = []
    for each in ranked:
        gaps = {case: own.score() - best[case].score() for case, own in figures[each.name].items()}
        differences = by_patient(gaps, shared)
        folds = tuple(_fold(trial, patients) for trial in each.trials)
        rows.append(
            Row(
                configuration=each.name,
                folds=folds,
                figures=means[each.name],
                over_folds=_averages([fold.figures for fold in folds if fold.figures is not None]),
                seconds=seconds[each.name],
                prediction_bytes=each.prediction_bytes,
                difference=fmean(differences),
                interval=None if each is ranked[0] else interval(differences),
            )
        )
    return tuple(rows)


def averages(figures: Mapping[str, Figures], patients: Mapping[str, str]) -> Averages:
    """Return the mean over the patients of the means over their cases."""
    columns = {
        name: mean_of(by_patient({case: getattr(each, name) for case, each in figures.items()}, patients))
        for name in FIGURES
    }
    return _stored(Figures(**columns))


def _averages(rows: Sequence[Averages]) -> Averages:
    """Return the mean over averages."""
    defined = {name: [value for row in rows if (value := getattr(row, name)) is not None] for name in FIGURES}
    return _stored(Figures(**{name: mean_of(values) for name, values in defined.items()}))


def _stored(figures: Figures) -> Averages:
    texture = None if math.isnan(figures.texture_db) else figures.texture_db
    return Averages(figures.score(), figures.psnr, figures.ssim, figures.mae, texture)


def _mean(rows: Sequence[Figures]) -> Figures:
    return Figures(**{name: mean_of([getattr(row, name) for row in rows]) for name in FIGURES})


def _fold(trial: Trial, patients: Mapping[str, str]) -> Fold:
    finite = {case: each for case, each in trial.figures.items() if math.isfinite(each.score())}
    return Fold(
        fold=trial.fold,
        weights=trial.weights,
        step=trial.step,
        steps=trial.steps,
        cases=len(finite),
        figures=averages(finite, patients) if finite else None,
    )


def _left_out(candidates: Sequence[Candidate], patients: Mapping[str, str]) -> dict[str, str]:
    """Return the cases that are not compared, with the reasons."""
    held = {each.name: each.held_out for each in candidates}
    failures = {case: reason for each in candidates for case, reason in each.failures().items()}
    reasons = {}
    for case in sorted(patients):
        lacking = [name for name, cases in sorted(held.items()) if case not in cases]
        if len(lacking) == len(held):
            reasons[case] = "held out by no fold"
        elif lacking:
            reasons[case] = f"not held out by {' '.join(lacking)}"
        elif case in failures:
            reasons[case] = failures[case]
    return reasons


def some(cases: Sequence[str]) -> str:
    """Return the first few names."""
    return ", ".join(cases[:SHOWN]) + (", …" if len(cases) > SHOWN else "") if cases else "none"
