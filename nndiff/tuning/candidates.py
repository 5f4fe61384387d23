"""The samplers that tuning tries, in rounds: each round varies one kind of part of the best sampler so far.

    from a late start      starts → starts that cost an evaluation → paces → caches → several draws
    from the source        paces → starts that cost an evaluation → caches → several draws

A pace is a number of steps. The parts themselves define which of their settings are tried (nndiff/walk).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nndiff.walk.caches import CACHES, Cache
from nndiff.walk.part import STEPS, Setting
from nndiff.walk.rules import RULES
from nndiff.walk.sampler import SamplerPlan
from nndiff.walk.starts import STARTS, Start

DRAWS = 4  # number of draws to average that is tried
FROM_SOURCE_LATE = (250, 500)  # starting steps of a draft if the process starts at the source

Round = Callable[[SamplerPlan], Iterator[SamplerPlan]]


def rounds(setting: Setting) -> list[Round]:
    """Return the rounds; each is a function from the best sampler so far to the samplers to try."""

    def starts(best: SamplerPlan) -> Iterator[SamplerPlan]:
        """Yield every start with all steps and with one step, which shows what late noise gains over a regression."""
        for row in _starts(refined=False):
            for first in row.late_steps(best.times.first):
                late = replace(without_caches(best), start=row(), times=replace(best.times, first=first))
                yield replace(late, times=late.times.whole())
                if first < STEPS:
                    yield replace(late, times=replace(late.times, steps=1))

    def refined(best: SamplerPlan) -> Iterator[SamplerPlan]:
        """Yield the starts that need a network evaluation, at the best starting step and the nearest ones."""
        for row in _starts(refined=True):
            late = replace(without_caches(best), start=row())
            if setting.process.from_source:
                half = replace(best.times, steps=max(1, best.steps // 2))
                yield from (replace(late, times=replace(half, first=first)) for first in FROM_SOURCE_LATE)
            else:
                steps = row.late_steps(best.times.first)
                yield from (replace(late, times=replace(best.times, first=first).whole()) for first in steps)

    def paces(best: SamplerPlan) -> Iterator[SamplerPlan]:
        """Yield the best path with fewer or more steps, by each step rule that is tried on walks of that length."""
        plain = without_caches(best)
        for times in best.times.paces(setting.process.from_source):
            if not setting.process.from_source:
                yield replace(plain, times=times)
            elif times.steps == 1:
                yield replace(plain, times=times)  # no rule has an effect on a single step
            for rule in (RULES[name] for name in RULES):
                if times.steps >= rule.least_steps:
                    variants = rule.variants()
                    yield from (replace(plain, times=times, rule=variant) for variant in variants)
        yield from (replace(plain, rule=rule) for rule in best.rule.neighbours())

    def caches(best: SamplerPlan) -> Iterator[SamplerPlan]:
        for row in (CACHES[name] for name in CACHES):
            own = next((cache for cache in best.caches if cache.name == row.name), None)
            for cache in row.candidates(own, best.steps, setting.network.reuse_depths):
                yield best.with_part(cache)

    def draws(best: SamplerPlan) -> Iterator[SamplerPlan]:
        if best.is_random(setting):
            yield replace(best, samples=DRAWS)

    return [paces, refined, caches, draws] if setting.process.from_source else [starts, refined, paces, caches, draws]


def without_caches(sampler: SamplerPlan) -> SamplerPlan:
    """Return the sampler with caches that keep nothing; a cache that always keeps something is left out."""
    defaults: list[Cache] = [type(cache)() for cache in sampler.caches]
    return replace(sampler, caches=tuple(cache for cache in defaults if cache.is_identity))


def _starts(refined: bool) -> Iterator[type[Start]]:
    rows = (STARTS[name] for name in STARTS)
    return (row for row in rows if row.refines == refined)
