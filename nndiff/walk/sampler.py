"""The sampler of a plan: the parts by which a trained network produces a volume, and the flags that change them.

    start → times → (network with layers and caches → guides → rule) at each time → mean over draws

The properties of a sampler (its flags, its label, its cost, whether two draws differ, the models that it refuses) are
derived here from those of its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Annotated, Any, TypeVar

from nndiff.walk.caches import Cache, Deep
from nndiff.walk.guides import Guide
from nndiff.walk.layers import Layer, Shifts, Tiles, ordered
from nndiff.walk.part import STEPS, Asked, Part, Setting, revised, typed
from nndiff.walk.rules import First, Rule, revised_rule
from nndiff.walk.starts import Noise, Start
from nndiff.walk.times import Suited, Times, revised_times
from nndiff.words.errors import NndiffError, nearest
from nndiff.words.fields import Checked, at_least, options_of

P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class SamplerPlan(Checked):
    """A sampler as a plan stores it. Layers, guides and caches may each contain a part of one name at most once."""

    start: Start = field(default_factory=Noise)
    times: Times = field(default_factory=Suited)
    rule: Rule = field(default_factory=First)
    layers: tuple[Layer, ...] = field(default_factory=lambda: (Tiles(), Shifts()))
    guides: tuple[Guide, ...] = ()
    caches: tuple[Cache, ...] = field(default_factory=lambda: (Deep(),))
    samples: Annotated[int, at_least(1, 10**4)] = 1  # number of volumes that are drawn and averaged

    def __post_init__(self) -> None:
        super().__post_init__()
        for parts in (self.layers, self.guides, self.caches):
            names = [part.name for part in parts]
            if twice := [name for name in names if names.count(name) > 1]:
                raise NndiffError(
                    f"The sampler lists the part '{twice[0]}' twice.", expected="each part once", found=names
                )

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.start, self.times, self.rule, *self.layers, *self.guides, *self.caches)

    @property
    def steps(self) -> int:
        return self.times.steps

    def part(self, kind: type[P]) -> P:
        """Return the sampler's part of the class `kind`, or a part with the defaults of the class if there is none."""
        return next((part for part in self.parts if isinstance(part, kind)), None) or kind()

    def with_part(self, part: Layer | Guide | Cache) -> SamplerPlan:
        """Return the sampler with this part, which replaces the part of the same name or is added."""
        seam = {"layer": "layers", "guide": "guides", "cache": "caches"}[part.seam]
        there: tuple[Part, ...] = getattr(self, seam)
        known = any(other.name == part.name for other in there)
        parts = tuple(part if other.name == part.name else other for other in there) if known else (*there, part)
        return replace(self, **{seam: ordered(parts) if seam == "layers" else parts})  # type: ignore[arg-type]

    # ------------------------------------------------------------ what follows from the parts

    def label(self) -> str:
        """Return a short description of the sampler."""
        first = self.times.first
        words = [self.start.label() if first == STEPS else f"{self.start.label()} from {first}", self.times.label()]
        if self.steps > 1:
            words.append(self.rule.label())
        words += [part.label() for part in (*self.caches, *self.layers, *self.guides)]
        words.append(f"mean of {self.samples}" if self.samples > 1 else "")
        return ", ".join(filter(None, words))

    @property
    def reuses(self) -> bool:
        return any(not cache.is_identity for cache in self.caches)

    @property
    def passes(self) -> int:
        """Return the number of evaluations of each fold's network per evaluation of the composed network."""
        return prod(layer.passes for layer in self.layers)

    def work(self, share: Callable[[int], float]) -> float:
        """Return the cost per volume in evaluations of the whole network.

        `share(depth)` is the cost of a step on features kept at that depth, as a share of one evaluation.
        """
        works = [cache.work(self.steps, share) for cache in self.caches if not cache.is_identity]
        walked = works[0] if len(works) == 1 else self.steps * prod(work / self.steps for work in works)
        return self.samples * self.passes * (walked + self.start.evaluations)

    def walking_times(self, setting: Setting) -> list[float]:
        return self.times(setting.process, self.rule)

    def is_random(self, setting: Setting) -> bool:
        """Return whether two draws differ, because of noise at the start or in some step."""
        times = self.walking_times(setting)
        at_the_start = setting.process.at(times[0])[2] > 0
        return at_the_start or any(part.draws_noise(setting.process, times) for part in self.parts)

    def demand(self, setting: Setting) -> None:
        """Refuse a model with which some part cannot be used, and several draws that would all be equal."""
        for part in self.parts:
            part.demand(setting)
        if self.samples > 1 and not self.is_random(setting):
            raise NndiffError(
                "This sampler is deterministic, so all its draws would be the same volume.",
                expected="a sampler that draws noise",
                found=self.label(),
                remedy="pass more steps (--steps 4), or --samples 1",
            )

    def oddities(self) -> list[str]:
        """Return warnings about settings that are allowed but have no effect."""
        if self.reuses and self.steps == 1:
            return ["--reuse has no effect in a walk of one step, because the first step runs the whole network"]
        return []


# ---------------------------------------------------------------- what a user asks for


def revised_sampler(own: SamplerPlan, asked: Asked) -> SamplerPlan:
    """Return the sampler that runs: `own` with the settings that the user gave and all that follows from them."""
    _demand_known(asked)
    start = revised(own.start, asked)
    times = revised_times(own.times, asked, start, own.start)
    same_walk = (times.steps, times.first) == (own.times.steps, own.times.first)
    changed = replace(
        own,
        start=start,
        times=times,
        rule=revised_rule(own.rule, asked),
        samples=own.samples if asked.get("samples") is None else asked["samples"],
    )
    for layer in own.layers:
        changed = changed.with_part(revised(layer, asked))
    for guide in own.guides:
        changed = changed.with_part(revised(guide, asked))
    for cache in own.caches:
        changed = changed.with_part(cache.revised(asked, times.steps, same_walk))
    for new in _flagged(own, asked):
        changed = changed.with_part(new)
    named = asked.get("part") or ()
    for text in filter(None, [named] if isinstance(named, str) else named):  # "auto" is read as None
        changed = changed.with_part(_named(text))
    return changed


def _flagged(own: SamplerPlan, asked: Asked) -> list[Layer | Guide | Cache]:
    """Return the parts that the sampler does not have and that a flag of their own asks for."""
    there = {(part.seam, part.name) for part in own.parts}
    bases: tuple[type[Layer] | type[Guide] | type[Cache], ...] = (Layer, Guide, Cache)
    rows = [row for base in bases for row in base.table().table.values() if (row.seam, row.name) not in there]
    return [row(**row.asked_for(asked)) for row in rows if row.asked_for(asked)]


def _named(text: str) -> Layer | Guide | Cache:
    """Return the layer, guide or cache that the text NAME:option=value describes."""
    name = text.partition(":")[0]
    bases: tuple[type[Layer] | type[Guide] | type[Cache], ...] = (Layer, Guide, Cache)
    for base in bases:
        if name in base.table():
            return typed(base, text)
    known = [row for base in bases for row in base.table()]
    raise NndiffError(f"There is no layer, guide or cache named '{name}'.", remedy=nearest(name, known))


@dataclass(frozen=True)
class Flag:
    """A command-line flag that sets part of the sampler."""

    name: str
    help: str
    metavar: str | None = None
    type: Callable[[str], Any] = int
    choices: tuple[Any, ...] | None = None
    many: bool = False


def flags() -> list[Flag]:
    """Return the flags that select parts and set their options; they are derived from the tables of the parts."""
    found = [
        Flag("start", "where sampling begins", "NAME", str),
        Flag("times", "how the times are spaced", "NAME", str),
        Flag("rule", "step rule, with options as NAME:option=value", "NAME", str),
        Flag("order", "order of the solver; 2 chooses the rule 'second'", choices=(1, 2)),
        Flag("hot", "K steps at once, then noise (the rule 'hot'); 0: another rule", "K"),
        Flag("samples", "number of draws to average", "K"),
        Flag("part", "more layers, guides or caches, as NAME:option=value", "NAME", str, many=True),
    ]
    for base in (Start, Times, Rule, Layer, Cache, Guide):
        table = base.table()
        found = [_with_names(flag, base) if flag.name == base.seam else flag for flag in found]
        for name in table.table:  # only the built-in parts: those of other packages are set by NAME:option=value
            known = {flag.name for flag in found}
            found += [Flag(o.flag, o.help, o.metavar, o.type) for o in options_of(table[name]) if o.flag not in known]
    return [_with_names(flag, Layer, Guide, Cache) if flag.name == "part" else flag for flag in found]


def _with_names(flag: Flag, *bases: type[Part]) -> Flag:
    """Return the flag with the names of the parts that it chooses among in its help."""
    names = [name for base in bases for name in base.table()]
    return replace(flag, help=f"{flag.help}: {', '.join(names)}") if names else flag


def _demand_known(asked: Mapping[str, Any]) -> None:
    names = [flag.name for flag in flags()]
    for name in asked:
        if name not in names:
            raise NndiffError(f"A sampler has no setting '{name}'.", remedy=nearest(name, names))
