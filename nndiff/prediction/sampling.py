"""From the planned or tuned sampler and what is asked for to the one that runs."""

from __future__ import annotations

from dataclasses import replace

from nndiff.diffusion.start import STEPS
from nndiff.plans.plan import ReusePlan, SamplerPlan
from nndiff.prediction.models import Trained
from nndiff.prediction.request import Request
from nndiff.sampling.layers import offsets
from nndiff.sampling.reuse import demand_reuse
from nndiff.sampling.translate import is_random
from nndiff.words.errors import NndiffError


def sampler_of(request: Request, trained: Trained) -> SamplerPlan:
    """The model's own sampler with what was asked for put in, and what follows from it."""
    own = trained.sampler
    start = own.start if request.start is None else request.start
    start_step = request.ts
    if start_step is None:
        start_step = STEPS if start in ("noise", "source") and start != own.start else own.start_step
    steps = request.steps
    if steps is None:  # a walk that took every step takes every step
        steps = start_step if own.steps == own.start_step else own.steps
    order = (1 if request.hot else own.order) if request.order is None else request.order
    hot = request.hot
    if hot is None:  # whoever asks for another step rule does not want this one
        hot = 0 if request.eta or request.order == 2 else own.hot
    eta = request.eta
    if eta is None:
        eta = 0.0 if request.order == 2 or request.hot else own.eta
    samples = own.samples if request.samples is None else request.samples
    shifts = own.shifts if request.shifts is None else request.shifts
    sampler = SamplerPlan(start, start_step, steps, eta, order, samples, hot=hot, shifts=shifts)
    return replace(sampler, reuse=_reuse(request, own, sampler))


def demand_sampler(sampler: SamplerPlan, trained: Trained) -> list[str]:
    """That it can run on this model; what is odd about it, in words."""
    demand_reuse(sampler.reuse, trained.model.configuration.network)
    offsets(sampler.shifts, trained.model.configuration.puzzle_factor)  # refuses more than there are
    if sampler.samples > 1 and not is_random(trained.model.method.process, sampler):
        raise NndiffError(
            "Every draw of this sampler would be the same volume.",
            expected="noise somewhere on the way",
            found=f"start {sampler.start}, {sampler.steps} steps, eta {sampler.eta:g}",
            remedy="take more steps (--steps 4), or one sample",
        )
    if sampler.reuse.active and sampler.steps == 1:
        return ["reusing features is pointless in a walk of one step: every step is a full one"]
    return []


def _reuse(request: Request, own: SamplerPlan, sampler: SamplerPlan) -> ReusePlan:
    """A list of steps holds for the walk it was made for; any other walk falls back on its interval."""
    reuse = own.reuse
    if (sampler.steps, sampler.start_step) != (own.steps, own.start_step):
        reuse = replace(reuse, listed=(), interval=reuse.interval if sampler.steps >= reuse.interval else 1)
    if request.reuse_depth is not None:
        reuse = replace(reuse, depth=request.reuse_depth)
    if request.reuse_threshold is not None:
        reuse = replace(reuse, threshold=request.reuse_threshold, interval=1, listed=())
    if request.reuse is not None:
        reuse = replace(reuse, interval=request.reuse, listed=(), threshold=0.0)
        if sampler.steps > 1 and request.reuse > sampler.steps:
            raise NndiffError(
                "No feature would ever be refreshed.",
                expected=f"a reuse interval of 1 to {sampler.steps}, the steps of the walk",
                found=request.reuse,
                remedy="a smaller --reuse, or more --steps",
            )
    return reuse
