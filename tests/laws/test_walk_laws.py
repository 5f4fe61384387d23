"""Laws that every part of a walk obeys, found from the tables: a new row is measured without a new test."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nndiff.assemble import build_network, formulation_of
from nndiff.diffusion.prediction import Estimate
from nndiff.diffusion.process import PROCESSES
from nndiff.diffusion.walk import Course
from nndiff.imaging.tiles import Tiling
from nndiff.sampling.compose import layered, plain
from nndiff.sampling.translate import Arrangement, Model, composed, translate
from nndiff.walk.caches import CACHES, Cache, Deep
from nndiff.walk.guides import GUIDES, Guide
from nndiff.walk.layers import LAYERS, Asks, Layer, Shifts, Tiles, Where
from nndiff.walk.part import Part, typed
from nndiff.walk.rules import RULES, First, Hot, Second
from nndiff.walk.sampler import SamplerPlan, flags, revised_sampler
from nndiff.walk.starts import STARTS
from nndiff.walk.times import TIMES, Ratio, Sine, Suited
from nndiff.words.errors import NndiffError
from nndiff.words.fields import options_of, rules_of
from nndiff.words.registry import Registry
from nndiff.words.scheme import Scheme
from nndiff.words.strict_json import decode, encode
from nndiff.words.volume import Triple
from tests.networks.test_unet import awake
from tests.prediction.trained import plan_of
from tests.walk.rows import LISTED, TABLES, base_of, every, rows, settings
from tests.walks import walk_of

CPU = torch.device("cpu")
SHAPE, TILE = (8, 6, 10), (6, 6, 6)
FACTOR = (2, 2, 2)

ROWS = pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.seam} {row.name}")
PARTS = pytest.mark.parametrize("part", every(), ids=str)


def options(row: type[Part]) -> list[dataclasses.Field[Any]]:
    """Return the fields that people set."""
    return [field for field in dataclasses.fields(row) if "help" in field.metadata]


# ---------------------------------------------------------------- as words


def test_every_table_is_measured() -> None:
    """The seams of a sampler are the tables of this file."""
    parts = SamplerPlan(guides=(GUIDES["identity"](),)).parts
    assert {part.seam for part in parts} == {table.kind for table in TABLES}


@PARTS
def test_a_part_comes_back_from_json(part: Part) -> None:
    data = encode(part)
    assert data["name"] == part.name
    assert decode(base_of(type(part)), data) == part


@PARTS
def test_a_sampler_with_the_part_comes_back_from_json(part: Part) -> None:
    sampler = holding(part)
    assert decode(SamplerPlan, encode(sampler)) == sampler
    assert hash(decode(SamplerPlan, encode(sampler))) == hash(sampler)


@ROWS
def test_what_json_does_not_know_is_refused_with_the_nearest(row: type[Part]) -> None:
    data = encode(row())
    wrong = {f"{data['name']}x": data["name"]} | {f"{key}x": key for key in data if key != "name"}
    for word, near in wrong.items():
        spoilt = {**data, "name": word} if near == row.name else {**data, word: data[near]}
        with pytest.raises(NndiffError, match=f"'{word}'(.|\n)*did you mean '{near}'"):
            decode(base_of(row), spoilt)


@ROWS
def test_options_out_of_range_are_refused_by_name(row: type[Part]) -> None:
    for field in dataclasses.fields(row):
        rule, default = rules_of(row)[field.name], getattr(row(), field.name)
        kind = float if isinstance(default, float) else int
        values = [kind(value) for value in (-1e6, -1, 0, 1e6)]
        wrong = [
            value
            for value in ([(v,) for v in values] if isinstance(default, tuple) else values)
            if not rule.holds(value)
        ]
        assert wrong, f"nothing is out of the range of {field.name}"
        for value in wrong:
            with pytest.raises(NndiffError, match=f"'{field.name}' is out of range"):
                replace(row(), **{field.name: value})
            with pytest.raises(NndiffError, match=f"'{field.name}' is out of range"):
                decode(base_of(row), {**encode(row()), field.name: encode(value)})


@ROWS
def test_every_option_has_one_sentence_of_help(row: type[Part]) -> None:
    for field in options(row):
        text = field.metadata["help"]
        assert re.fullmatch(r"\w[^\n]{8,80}[^\n.]", text), f"{row.name}.{field.name}: {text!r}"
        assert field.default is not dataclasses.MISSING


# ---------------------------------------------------------------- flags


def test_no_two_flags_have_one_name() -> None:
    names = [flag.name for flag in flags()]
    assert len(names) == len(set(names))
    assert all(flag.help and "\n" not in flag.help for flag in flags())


def asked_of(kind: type, field: str, flag: str, typed_value: Any) -> Any:
    """Return the option of the sampler that runs when the flag is given."""
    sampler = revised_sampler(walk_of("shortcut", 40, 40), {flag: typed_value})
    return getattr(sampler.part(kind), field)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.kind)
def test_a_flag_sets_the_option_that_it_is_the_flag_of(table: Registry[Any]) -> None:
    """Whatever rule is walked: a flag of a rule needs no --rule beside it."""
    for row in rows(table):
        for option in options_of(row):
            rule, default = rules_of(row)[option.field], getattr(row(), option.field)
            for value in (0.25, 0.75, 2, 3):
                wanted = option.of(value)
                if option.type is type(value) and rule.holds(wanted) and wanted != default:
                    found = asked_of(base_of(row) if table is TIMES else row, option.field, option.flag, value)
                    assert found == wanted


def test_the_flags_that_choose_set_what_their_help_says() -> None:
    """With the test above, every flag is measured."""
    of_options = {option.flag for row in rows() for option in options_of(row)}
    of_tables = {"start": STARTS, "times": TIMES, "rule": RULES}
    assert {flag.name for flag in flags()} == of_options | set(of_tables) | {"order", "samples", "part"}
    own = walk_of("shortcut", 40, 40)
    for name, table in of_tables.items():
        (flag,) = (flag for flag in flags() if flag.name == name)
        assert flag.help.endswith(f": {', '.join(table)}")
        for row in table:
            assert getattr(revised_sampler(own, {name: row}), name).name == row
    assert revised_sampler(own, {"order": 2}).rule == Second()
    assert revised_sampler(own, {"hot": 3}).rule == Hot(3)
    assert revised_sampler(replace(own, rule=Hot(2)), {"hot": 0}).rule == First(0.0)
    assert revised_sampler(own, {"samples": 5}).samples == 5


def text_of(part: Part) -> str:
    """Return NAME:option=value,… of what differs from the row's defaults."""
    own = type(part)()
    names = [field.name for field in options(type(part)) if getattr(part, field.name) != getattr(own, field.name)]
    return f"{part.name}:{','.join(f'{name}={getattr(part, name)}' for name in names)}"


def is_listed(part: Part) -> bool:
    return part.seam in {table.kind for table in LISTED}


def typable(part: Part) -> bool:
    """Whether no more than options differs from the defaults."""
    own, set_by_people = type(part)(), {field.name for field in options(type(part))}
    fields = [field.name for field in dataclasses.fields(part)]  # type: ignore[arg-type]
    return all(getattr(part, name) == getattr(own, name) for name in fields if name not in set_by_people)


@pytest.mark.parametrize("part", [part for part in every() if typable(part)], ids=str)
def test_every_row_is_reached_by_its_name_and_options(part: Part) -> None:
    own = walk_of("shortcut", 40, 40)
    asked = {"part": [text_of(part)]} if is_listed(part) else {part.seam: text_of(part)}
    wanted = part
    if part.seam == "times":  # what is not said of the times is as planned
        said = text_of(part).partition(":")[2]
        first = part.first if "first" in said else 40
        wanted = replace(part, first=first, steps=part.steps if "steps" in said else first)
    assert wanted in revised_sampler(own, asked).parts


@ROWS
def test_a_name_or_an_option_that_there_is_not_is_refused_with_the_nearest(row: type[Part]) -> None:
    def refused(text: str, near: str) -> None:
        asked = {"part": [text]} if is_listed(row()) else {row.seam: text}
        with pytest.raises(NndiffError, match=f"did you mean '{near}'"):
            revised_sampler(walk_of(), asked)

    refused(f"{row.name}x", row.name)
    for field in options(row):
        refused(f"{row.name}:{field.name}x=1", field.name)
        with pytest.raises(NndiffError, match=f"has no option '{field.name}'"):
            typed(base_of(row), f"{row.name}:{field.name}")
    with pytest.raises(NndiffError, match=f"{row.name}' has no option 'zzz=1'"):
        typed(base_of(row), f"{row.name}:zzz=1")


# ---------------------------------------------------------------- labels


def holding(part: Part, sampler: SamplerPlan | None = None) -> SamplerPlan:
    sampler = sampler or walk_of("shortcut", 40, 6)
    return sampler.with_part(part) if is_listed(part) else replace(sampler, **{part.seam: part})  # type: ignore[arg-type]


def visits_no_ratio(part: Part) -> bool:
    """Return whether these are times by ratio in one step, which walks as any other grid does."""
    return isinstance(part, Ratio) and part.steps == 1


@PARTS
def test_a_label_names_every_part_that_changes_something(part: Part) -> None:
    """Two settings of a row that walk differently are told apart; what changes nothing is not spoken of."""
    label = holding(part).label()
    assert part.label() in label
    if part.is_identity:
        assert part.label() == ""
    elif visits_no_ratio(part):
        assert label == holding(Suited(part.first, 1)).label()
    else:
        rivals = settings(type(part)) if is_listed(part) else every(*(t for t in TABLES if t.kind == part.seam))
        others = [other for other in rivals if other != part and not other.is_identity]
        others = [other for other in others if not visits_no_ratio(other)]
        assert label not in {holding(other).label() for other in others}
        assert part.label() or part == type(part)()


def test_a_label_has_no_word_twice_and_lists_all_kinds() -> None:
    sampler = holding(Deep(3), walk_of("shortcut", 40, 6, shifts=2, samples=3))
    assert sampler.label() == "shortcut from 40, 6 steps, eta 0, reuse every 3, 2 shifts, mean of 3"


# ---------------------------------------------------------------- whole walks


def model_of(process: Scheme | None = None, folds: int = 2, precision: str = "fp32", **words: Any) -> Model:
    """Two folds of a tiny network with drawn weights, on a puzzle."""
    changes = {"puzzle_factor": FACTOR, "patch_size": TILE, "prediction": "x0", "precision": precision}
    plan = plan_of("bridge", **{**changes, **({"process": process} if process else {}), **words})
    configuration = plan.configurations["bridge"]
    networks = [awake(build_network(configuration.network, FACTOR), seed).eval() for seed in range(folds)]
    return Model(
        configuration=configuration,
        anchor=plan.anchor,
        bounds=plan.target_range,
        networks=tuple(networks),
        formulation=formulation_of(configuration),
        device=CPU,
    )


def walked(model: Model, sampler: SamplerPlan, seed: int = 0, tile: Triple = TILE) -> Tensor:
    source = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(9))
    layout = Arrangement(Tiling(SHAPE, tile, sampler.part(Tiles).overlap), CPU, 0)
    return translate(model, source, SHAPE, sampler, torch.Generator().manual_seed(seed), [layout])


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def model(request: pytest.FixtureRequest) -> Model:
    return model_of(precision=request.param)


IDENTITIES = [part for part in every() if part.is_identity]


def without(sampler: SamplerPlan, part: Part) -> SamplerPlan:
    names = {"layer": "layers", "guide": "guides", "cache": "caches"}
    there = getattr(sampler, names[part.seam])
    return replace(sampler, **{names[part.seam]: tuple(other for other in there if other.name != part.name)})


def test_each_seam_that_lists_parts_has_one_that_changes_nothing() -> None:
    assert {part.seam for part in IDENTITIES} == {table.kind for table in LISTED}


@pytest.mark.parametrize("others", [{"shifts": 2}, {"reuse": Deep(2)}, {"shifts": 2, "reuse": Deep(2)}], ids=str)
@pytest.mark.parametrize("part", IDENTITIES, ids=str)
def test_a_part_that_is_the_identity_is_bit_for_bit_left_out(
    model: Model, part: Part, others: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two folds, in tiles, beside a shift and a kept feature; and so it is where nobody asks whether it is one."""
    rest = without(walk_of("source", 1000, 3, eta=1.0, **others), part)
    left_out = walked(model, rest)
    assert left_out.abs().max() > 0.1
    assert torch.equal(walked(model, holding(part, rest)), left_out)
    monkeypatch.setattr(type(part), "is_identity", False)
    assert torch.equal(walked(model, holding(part, rest)), left_out)


@dataclass(frozen=True)
class Ramp(Layer):
    """What a network says is multiplied by how far along its piece a voxel lies: this commutes with no shift."""

    name = "ramp"

    def around(self, network: Asks, puzzle_factor: Triple) -> Asks:
        def ramped(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where) -> Tensor:
            return network(x_t, t, condition, (*where, 0)) * torch.linspace(0.5, 1.5, x_t.shape[-1])

        return ramped


def test_layers_stand_in_the_order_of_the_table_whatever_order_they_are_listed_in(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LAYERS.table, "ramp", Ramp)
    layers = [Tiles(0.25), Shifts(2), Ramp()]
    assert {layer.name for layer in layers} == set(LAYERS)
    sampler = walk_of("source", 1000, 2)
    first, *others = [walked(model, replace(sampler, layers=listed)) for listed in itertools.permutations(layers)]
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(first, walked(model, replace(sampler, layers=(Tiles(0.25), Ramp()))))
    x, t = torch.randn(1, 1, *TILE), torch.ones(1)
    network = model.networks[0]
    inside = layered(network, [Ramp(), Shifts(2)], [], FACTOR)(x, t, x, ())
    by_hand = Shifts(2).around(Ramp().around(plain(network), FACTOR), FACTOR)(x, t, x, ())
    the_other_way = Ramp().around(Shifts(2).around(plain(network), FACTOR), FACTOR)(x, t, x, ())
    assert torch.equal(inside, by_hand)
    assert not torch.equal(inside, the_other_way)


class Whole(Ramp):
    """The same ramp, over the whole volume."""

    name = "whole"
    sees_volume = True


def test_a_layer_that_sees_the_volume_stands_outside_the_tiles(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAYERS.table, "whole", Whole)
    monkeypatch.setitem(LAYERS.table, "ramp", Ramp)
    size = (*TILE[:2], 2 * TILE[2])
    x, t, tiling = torch.randn(1, 1, *size), torch.ones(1), Tiling(size, TILE, 0.5)
    assert len(tiling) > 1

    def said(*layers: Layer) -> Tensor:
        return composed(model, replace(walk_of("source", 1000, 2), layers=layers), tiling, [])(x, t, x)

    assert torch.allclose(said(Tiles(0.5), Whole()), said(Tiles(0.5)) * torch.linspace(0.5, 1.5, size[2]))
    assert not torch.allclose(said(Tiles(0.5), Ramp()), said(Tiles(0.5), Whole()))


# ---------------------------------------------------------------- caches beside each other


COUNTED = {"begin": 0, "end": 0, "around": 0, "asked": 0}


class Counter:
    """What one walk counts."""

    def __init__(self, counts: dict[str, int]):
        self.counts = counts

    def begin(self, x: Tensor) -> None:
        self.counts["begin"] += 1

    def end(self, x: Tensor) -> None:
        self.counts["end"] += 1

    def around(self, network: Asks) -> Asks:
        self.counts["around"] += 1

        def counted(x_t: Tensor, t: Tensor, condition: Tensor | None, where: Where, *others: object) -> Tensor:
            self.counts["asked"] += 1
            return network(x_t, t, condition, where, *others)

        return counted


@pytest.mark.parametrize("size", [TILE, SHAPE], ids=["tiled", "whole"])
@pytest.mark.parametrize("first", [True, False], ids=["listed first", "listed last"])
@pytest.mark.parametrize("start", ["source", "draft"])
def test_two_kinds_of_caches_stand_together(
    model: Model, monkeypatch: pytest.MonkeyPatch, size: Triple, first: bool, start: str
) -> None:
    """One counts, one keeps features: neither notices the other, and neither sees the evaluation of a draft."""
    counts = dict(COUNTED)

    @dataclass(frozen=True)
    class Counting(Cache):
        name = "counting"

        def begin(self, store: torch.device, measures: bool = False) -> Counter:
            return Counter(counts)

    monkeypatch.setitem(CACHES.table, "counting", Counting)
    alone = walk_of(start, 500, 4, shifts=2, reuse=Deep(2))
    both = replace(alone, caches=(Counting(), Deep(2)) if first else (Deep(2), Counting()))
    assert torch.equal(walked(model, both, tile=size), walked(model, alone, tile=size))
    steps, folds, places, tiles = 4, 2, 2, len(Tiling(SHAPE, size, 0.5))
    expected = {"begin": steps, "end": steps, "around": folds, "asked": steps * folds * places * tiles}
    assert counts == expected
    counting_alone = replace(alone, caches=(Counting(),))
    plain_walk = walked(model, replace(alone, caches=()), tile=size)
    assert torch.equal(walked(model, counting_alone, tile=size), plain_walk)
    assert not torch.equal(walked(model, alone, tile=size), plain_walk), "the kept feature matters"
    assert revised_sampler(alone, {"part": ["counting"]}).caches == (Deep(2), Counting())


# ---------------------------------------------------------------- guides


@dataclass(frozen=True)
class Moved(Guide):
    name = "moved"

    by: float = 0.5

    def __call__(self, course: Course, x_t: Tensor, estimate: Estimate, t: float, s: float) -> tuple[Tensor, Estimate]:
        return x_t, Estimate(estimate.x0 + self.by, estimate.eps)


@dataclass(frozen=True)
class Scaled(Guide):
    name = "scaled"

    by: float = 2.0

    def __call__(self, course: Course, x_t: Tensor, estimate: Estimate, t: float, s: float) -> tuple[Tensor, Estimate]:
        return x_t, Estimate(estimate.x0 * self.by, estimate.eps)


def test_a_guide_moves_the_volume_and_guides_apply_in_the_order_listed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one step from the source the last estimate is the volume."""
    for row in (Moved, Scaled):
        monkeypatch.setitem(GUIDES.table, row.name, row)
    sampler = walk_of("source", 1000, 1)
    estimate = walked(model, sampler)
    results = {
        (Moved(),): estimate + 0.5,
        (Scaled(),): 2 * estimate,
        (Moved(), Scaled()): 2 * (estimate + 0.5),
        (Scaled(), Moved()): 2 * estimate + 0.5,
    }
    for guides, expected in results.items():
        torch.testing.assert_close(walked(model, replace(sampler, guides=guides)), expected)
    longer = replace(sampler, times=Sine(1000, 3))
    assert not torch.equal(walked(model, replace(longer, guides=(Moved(),))), walked(model, longer))
    named = revised_sampler(sampler, {"part": ["scaled:by=3", "moved"]})
    assert named.guides == (Scaled(3.0), Moved())
    assert named.label().endswith("scaled, moved")


# ---------------------------------------------------------------- chance


FAMILY = {name: Scheme(name, {}) for name in PROCESSES}
FAMILY |= {
    "bridge without noise": Scheme("bridge", {"gamma": 0.0}),
    "rddm without noise": Scheme("rddm", {"noise": 0.0}),
}


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: model_of(scheme, folds=1) for name, scheme in FAMILY.items()}


@pytest.mark.parametrize("process", FAMILY)
@pytest.mark.parametrize("rule", every(RULES), ids=str)
@pytest.mark.parametrize("start", list(STARTS))
def test_a_sampler_says_whether_two_seeds_differ(models: dict[str, Model], start: str, rule: Any, process: str) -> None:
    model = models[process]
    for first, steps in ((1000, 1), (1000, 2), (1000, 4), (400, 1), (400, 4)):
        sampler = replace(walk_of(start, first, steps), rule=rule)
        differ = not torch.equal(*(walked(model, sampler, seed, SHAPE) for seed in (0, 1)))
        assert sampler.is_random(model.setting) == differ, (first, steps)


@pytest.mark.parametrize("process", ["ddpm", "rectified", "trig"])
@pytest.mark.parametrize("start", list(STARTS))
def test_a_start_that_needs_a_source_says_so(models: dict[str, Model], process: str, start: str) -> None:
    """Without one, the others walk."""
    row = STARTS[start]()
    if row.needs_source:
        with pytest.raises(NndiffError, match="needs a source"):
            row.demand_source(None)
    else:
        row.demand_source(None)
        like, setting = torch.zeros(1, 1, *SHAPE), models[process].setting
        noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
        x = row(setting.process, like, None, 0.7, lambda x_t, t: Estimate(x_t, x_t), noise)
        assert x.std() > 0.1


def test_a_process_says_where_its_path_begins() -> None:
    found = {name for name in PROCESSES if PROCESSES[name]().from_source}
    assert found == {"bridge", "i2sb", "rddm"}
