"""A method: the bridge with another network, prediction, loss and step rule."""

from __future__ import annotations

from dataclasses import replace

from nndiff_example.rule import Euler

from nndiff.methods.bridge import BRIDGE
from nndiff.plans.plan import Stage
from nndiff.words.scheme import Scheme
from nndiff.words.verdict import Verdict

STAGE = Stage("all", Scheme("huber", {"width": 0.05}), 1.0, objective=Scheme("charted", {"weight": 0.1}))

EXAMPLE = replace(
    BRIDGE,
    name="example",
    planned_for=(),
    family="plain",
    prediction=lambda data: Verdict("correction", "what is to be added to the source"),
    stages=lambda data, puzzle_factor: Verdict((STAGE,), "one stage: a loss that forgives outliers"),
    rule=lambda data: Verdict(Euler(), "an Euler step of the path"),
)
