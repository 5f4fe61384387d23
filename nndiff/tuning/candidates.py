"""What is tried, in rounds: each varies one thing of the best so far.

from a late start      ts, by shortcut and by draft → fewer steps, eta, order → features kept → several draws
on a bridge            steps, eta, order → a late start by draft → features kept → several draws
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from nndiff.diffusion.process import Process
from nndiff.diffusion.start import STEPS
from nndiff.plans.plan import ReusePlan, SamplerPlan
from nndiff.sampling.translate import is_random

TS = (1, 5, 10, 25, 50, 100, 250, 500)
BRIDGE_STEPS = (1, 2, 4, 10, 20)
INTERVALS = (2, 3, 5, 10)
DRAWS = 4
HOT = (1, 3)  # beside the planned 2
EVERY = ReusePlan()

Round = Callable[[SamplerPlan], Iterator[SamplerPlan]]


def rounds(process: Process, deepest: int) -> list[Round]:
    def reuse(best: SamplerPlan) -> Iterator[SamplerPlan]:
        for depth in range(1, min(2, deepest) + 1):
            for interval in INTERVALS:
                if interval < best.steps:
                    yield replace(best, reuse=ReusePlan(interval, depth))

    def draws(best: SamplerPlan) -> Iterator[SamplerPlan]:
        if is_random(process, best):
            yield replace(best, samples=DRAWS)

    if process.at(1.0)[1]:
        return [_bridge_steps, _bridge_drafts, reuse, draws]
    return [_starts, _drafts, _paces, reuse, draws]


def _starts(best: SamplerPlan) -> Iterator[SamplerPlan]:
    """Every start walked whole and left in one step: what late noise gains over a regression shows side by side."""
    for ts in sorted({*TS, best.start_step}):
        yield replace(best, start="shortcut", start_step=ts, steps=ts, reuse=EVERY)
        yield replace(best, start="shortcut", start_step=ts, steps=1, reuse=EVERY)
    yield replace(best, start="noise", start_step=STEPS, steps=STEPS, reuse=EVERY)


def _drafts(best: SamplerPlan) -> Iterator[SamplerPlan]:
    """At the best step, and one rung to either side."""
    near = sorted(TS, key=lambda ts: abs(ts - best.start_step))[:3]
    for ts in sorted({best.start_step, *near}):
        if ts < STEPS:
            yield replace(best, start="draft", start_step=ts, steps=ts, reuse=EVERY)


def _paces(best: SamplerPlan) -> Iterator[SamplerPlan]:
    for share in (2, 5, 10):
        steps = best.start_step // share
        if 1 <= steps < best.start_step:
            yield replace(best, steps=steps, reuse=EVERY)
            if steps > 1:
                yield replace(best, steps=steps, eta=0.0, hot=0, reuse=EVERY)
            if steps > 2:
                yield replace(best, steps=steps, eta=0.0, order=2, hot=0, reuse=EVERY)
    if best.hot:
        for hot in HOT:
            yield replace(best, hot=hot, reuse=EVERY)


def _bridge_steps(best: SamplerPlan) -> Iterator[SamplerPlan]:
    for steps in BRIDGE_STEPS:
        yield replace(best, steps=steps, eta=0.0, order=1, hot=0, reuse=EVERY)
        if steps > 1:
            yield replace(best, steps=steps, eta=1.0, order=1, hot=0, reuse=EVERY)
        if steps > 3:
            yield replace(best, steps=steps, eta=0.0, order=2, hot=0, reuse=EVERY)


def _bridge_drafts(best: SamplerPlan) -> Iterator[SamplerPlan]:
    for ts in (250, 500):
        yield replace(best, start="draft", start_step=ts, steps=max(1, best.steps // 2), reuse=EVERY)


def label(sampler: SamplerPlan) -> str:
    """In a few words."""
    words = [sampler.start if sampler.start_step == STEPS else f"{sampler.start} from {sampler.start_step}"]
    words.append(f"{sampler.steps} step{'s' if sampler.steps > 1 else ''}")
    if sampler.steps > 1:
        rule = f"hot {sampler.hot}" if sampler.hot else f"eta {sampler.eta:g}"
        words.append(rule + (", order 2" if sampler.order == 2 else ""))
    reuse = sampler.reuse
    if reuse.active:
        when = f"{len(reuse.listed)} full" if reuse.listed else f"every {reuse.interval}"
        words.append(f"reuse {when}" + (f" at depth {reuse.depth}" if reuse.depth > 1 else ""))
    if sampler.shifts > 1:
        words.append(f"{sampler.shifts} shifts")
    if sampler.samples > 1:
        words.append(f"mean of {sampler.samples}")
    return ", ".join(words)
