"""Tests of dataclasses as JSON: exact round trips, and errors that name the place by its dotted path."""

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nndiff.families.prdit import PRDiTSpec
from nndiff.families.unet import UNetSpec
from nndiff.plans import channels, plan
from nndiff.walk.sampler import SamplerPlan
from nndiff.words import budget, dataset, fingerprint, strict_json
from nndiff.words.errors import NndiffError
from nndiff.words.fields import Checked, Rule, at_least, one_of, option, rules_of
from nndiff.words.files import dumps
from nndiff.words.registry import Registry
from nndiff.words.strict_json import Tagged, decode, encode, rules_at, type_at

WORDS = [fingerprint.Fingerprint, budget.Budget, channels.Preparation, plan.Configuration, plan.Decision, plan.Plan]
WORDS += [dataset.DatasetJson, dataset.InPlace, plan.Stage, SamplerPlan, UNetSpec, PRDiTSpec]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def words_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a declared type, whichever the words use."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return json_values
    if isinstance(kind, type) and issubclass(kind, strict_json.Named):
        return st.sampled_from(kind.rows().values())
    if isinstance(kind, type) and issubclass(kind, Tagged) and not kind.name:
        return st.one_of([words_of(kind.table()[name]) for name in kind.table()])
    if dataclasses.is_dataclass(kind):
        rules = rules_of(kind)
        fields = {name: valid(rules.get(name), hint) for name, hint in strict_json.hints_of(kind).items()}
        if kind is plan.Plan:  # its channels and anchor must fit one another: none of either
            fields |= {name: st.just(()) for name in ("source_channels", "target_channels", "anchor")}
        return st.builds(kind, **fields)
    if origin is tuple and arguments[1:] == (...,) and issubclass(arguments[0], Tagged):
        return st.lists(words_of(arguments[0]), max_size=2, unique_by=lambda part: part.name).map(tuple)
    if origin is tuple and arguments[1:] == (...,):
        return st.lists(words_of(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(words_of, arguments))
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), words_of(arguments[1]), max_size=2)
    if type(None) in arguments:
        (rest,) = set(arguments) - {type(None)}
        return st.none() | words_of(rest)
    plain = {float: st.floats(allow_nan=False, allow_infinity=False), int: st.integers(), bool: st.booleans()}
    return plain.get(kind, st.text(max_size=5))


def valid(rule: Rule | None, kind: Any) -> st.SearchStrategy[Any]:
    """Of a field with a rule, a value that the rule lets through."""
    arguments = typing.get_args(kind)
    if rule is None:
        return words_of(kind)
    if rule is plan.RISING:
        return st.lists(st.tuples(st.floats(-9, 0), st.floats(1, 9)), max_size=2).map(tuple)
    if rule is plan.OPEN_CURVES:
        points = st.tuples(st.floats(-9, 9), st.floats(0.01, 9))
        curves = st.lists(points, min_size=1, max_size=3, unique_by=lambda point: point[0])
        return st.lists(curves.map(sorted).map(tuple), max_size=2).map(tuple)
    if kind is str:
        return st.sampled_from(rule.words.split(" or "))
    if arguments[1:] == (...,):
        return st.lists(valid(rule if arguments[0] is int else None, arguments[0]), min_size=1, max_size=2).map(tuple)
    numbers = st.integers(4, 1000) if "int" in str(kind) else st.floats(0.01, 0.9)
    return st.tuples(numbers, numbers, numbers) if arguments else numbers


@pytest.mark.parametrize("cls", WORDS, ids=lambda cls: cls.__name__)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_law_every_word_survives_json_and_gives_the_same_bytes_again(cls, data):
    import json

    word = data.draw(words_of(cls))
    text = dumps(encode(word))
    back = decode(cls, json.loads(text))
    assert back == word
    assert dumps(encode(back)) == text


# ---------------------------------------------------------------- what does not fit


@dataclasses.dataclass(frozen=True)
class Inner:
    size: tuple[int, int, int]
    on: bool = True


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    rows: tuple[Inner, ...] = ()
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)
    rate: float = 1.0
    note: str | None = None


GOOD = {"inner": {"size": [1, 2, 3]}}


def refusal(change: dict[str, Any]) -> NndiffError:
    with pytest.raises(NndiffError) as raised:
        decode(Outer, {**GOOD, **change})
    return raised.value


def test_defaults_fill_in_and_whole_numbers_serve_as_numbers():
    assert decode(Outer, {**GOOD, "rate": 2}) == Outer(Inner((1, 2, 3)), rate=2.0)
    assert type(decode(Outer, {**GOOD, "rate": 2}).rate) is float
    assert decode(Outer, {**GOOD, "note": None}).note is None


def test_an_unknown_key_names_the_nearest():
    error = refusal({"named": {"a": {"size": [1, 2, 3], "om": True}}})
    assert "'om' in named.a" in error.what
    assert error.remedy == "did you mean 'on'?"


def test_a_missing_key_is_named_with_its_place():
    error = refusal({"rows": [{"size": [1, 2, 3]}, {"on": True}]})
    assert error.what == "'size' is missing in rows[1]."
    assert error.remedy == 'add "size"'
    with pytest.raises(NndiffError, match=r"^'inner' is missing\."):
        decode(Outer, {})


@pytest.mark.parametrize(
    ("change", "place", "expected"),
    [
        ({"rate": "fast"}, "'rate'", "a number"),
        ({"rate": True}, "'rate'", "a number"),
        ({"rate": None}, "'rate'", "a number"),
        ({"note": 3}, "'note'", "a string"),
        ({"inner": [1]}, "'inner'", "an object"),
        ({"inner": {"size": [1, 2]}}, "'inner.size'", "a list of 3"),
        ({"inner": {"size": "123"}}, "'inner.size'", "a list"),
        ({"inner": {"size": [1, 2.5, 3]}}, "'inner.size[1]'", "a whole number"),
        ({"inner": {"size": [1, True, 3]}}, "'inner.size[1]'", "a whole number"),
        ({"rate": -(10**400)}, "'rate'", "a whole number below 2^63"),
        ({"inner": {"size": [1, 2, 3], "on": 1}}, "'inner.on'", "true or false"),
        ({"named": []}, "'named'", "an object"),
        ({"named": {"a": 5}}, "'named.a'", "an object"),
    ],
)
def test_a_wrong_type_says_where_by_a_dotted_path(change, place, expected):
    error = refusal(change)
    assert place in error.what
    assert error.expected == expected
    assert error.found is not None


def test_what_was_found_is_shown_in_one_short_line():
    error = refusal({"rate": {f"key{i}": i for i in range(1000)}})
    assert len(str(error)) < 300


@pytest.mark.parametrize("top", [[], None, 3, "text"])
def test_something_else_than_an_object_at_the_top(top):
    with pytest.raises(NndiffError) as raised:
        decode(Outer, top)
    assert raised.value.expected == "an object"


# ---------------------------------------------------------------- objects that stand in a table


@dataclasses.dataclass(frozen=True)
class Colour(strict_json.Named):
    name: str
    red: float

    @classmethod
    def rows(cls):
        return Registry("colour", {"ruby": Colour("ruby", 0.9), "sky": Colour("sky", 0.2)})


@dataclasses.dataclass(frozen=True)
class Flag:
    top: Colour
    stripes: tuple[Colour, ...] = ()


def test_an_object_of_a_table_is_written_as_its_name():
    ruby, sky = Colour.rows().values()
    assert encode(Flag(ruby, (sky, ruby))) == {"top": "ruby", "stripes": ["sky", "ruby"]}
    assert decode(Flag, {"top": "ruby", "stripes": ["sky", "ruby"]}) == Flag(ruby, (sky, ruby))


def test_a_name_that_the_table_lacks_says_where_and_the_nearest():
    with pytest.raises(NndiffError, match=r"no colour named 'rubi' \(in stripes\[1\]\)") as raised:
        decode(Flag, {"top": "sky", "stripes": ["sky", "rubi"]})
    assert (raised.value.expected, raised.value.found) == ("ruby or sky", "rubi")
    assert raised.value.remedy == "did you mean 'ruby'?"
    with pytest.raises(NndiffError, match="'top' has the wrong type") as raised:
        decode(Flag, {"top": {"name": "sky", "red": 0.2}})
    assert raised.value.expected == "a string"


def test_an_object_of_a_table_has_no_parts_to_be_set():
    assert type_at(Flag, "stripes.0") is Colour
    with pytest.raises(NndiffError, match="'top' is a single value and has no fields"):
        type_at(Flag, "top.red")


# ---------------------------------------------------------------- types by path


def test_the_type_at_a_dotted_path():
    assert type_at(Outer, "inner.on") is bool
    assert type_at(Outer, "named.anything.size") == tuple[int, int, int]
    assert type_at(Outer, "rows.3.on") is bool
    assert type_at(Outer, "inner.size.2") is int


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("iner.on", "did you mean 'inner'"),
        ("inner.size.first", "is a single value and has no fields"),
        ("rate.x", "rate"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(path, words):
    with pytest.raises(NndiffError, match=words):
        type_at(Outer, path)


# ---------------------------------------------------------------- families told apart by a name


class Shape(Tagged, Checked):
    @classmethod
    def table(cls):
        return SHAPES


@dataclasses.dataclass(frozen=True)
class Ball(Shape):
    name = "ball"
    radius: float = option(1.0, at_least(0), help="in mm")
    colour: typing.Annotated[str, one_of("red", "blue")] = "red"


@dataclasses.dataclass(frozen=True)
class Box(Shape):
    name = "box"
    sides: tuple[int, int] = (1, 1)
    colour: typing.Annotated[str, one_of("red", "green")] = "red"


@dataclasses.dataclass(frozen=True)
class Scene:
    first: Shape
    others: tuple[Shape, ...] = ()
    box: Box = Box()


SHAPES = Registry("shape", {"ball": Ball, "box": Box})


def test_a_class_of_a_family_is_stored_with_its_name_first():
    scene = Scene(Ball(2.0), (Box((2, 3)), Ball()))
    stored = encode(scene)
    assert list(stored["first"].items()) == [("name", "ball"), ("radius", 2.0), ("colour", "red")]
    assert decode(Scene, stored) == scene
    assert type(decode(Scene, stored).others[0]) is Box


def test_what_a_part_does_not_say_has_its_default():
    assert decode(Scene, {"first": {"name": "box"}}) == Scene(Box())


def test_another_packages_class_is_read_too(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Cone(Shape):
        name = "cone"
        height: int = 1

    monkeypatch.setitem(SHAPES.table, "cone", Cone)
    assert decode(Scene, {"first": {"name": "cone", "height": 4}}).first == Cone(4)
    assert type_at(Scene, "first.height") is int


def test_where_one_class_is_possible_its_name_may_be_left_out_and_no_other_may_stand_there():
    assert decode(Box, {"sides": [2, 2]}) == decode(Box, {"name": "box", "sides": [2, 2]}) == Box((2, 2))
    assert decode(Scene, {"first": {"name": "ball"}, "box": {"sides": [2, 2]}}).box == Box((2, 2))
    with pytest.raises(NndiffError, match=r"'box.name'.*\n.*\"box\"; found 'ball'"):
        decode(Scene, {"first": {"name": "ball"}, "box": {"name": "ball"}})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"first": {"name": "bal"}}, r"no shape named 'bal'(.|\n)*where: first(.|\n)*did you mean 'ball'"),
        ({"first": {"radius": 1}}, r"'first'(.|\n)*an object with a \"name\""),
        ({"first": {"name": 3}}, 'an object with a "name"'),
        ({"first": None}, 'an object with a "name"'),
        ({"first": {"name": "ball", "sides": [1, 1]}}, "Unknown key 'sides' in first"),
        ({"first": {"name": "ball", "raduis": 1}}, "did you mean 'radius'"),
        ({"first": {"name": "ball"}, "others": [{"name": "box", "sides": [1]}]}, r"'others\[0\].sides'"),
        ({"first": {"name": "ball", "radius": -1}}, "'radius' is out of range"),
        ({"first": {"name": "box", "colour": "blue"}}, "red or green"),
        ({"first": {"name": "ball"}, "box": [1]}, r"'box'(.|\n)*an object"),
    ],
)
def test_a_part_that_does_not_fit_is_refused_in_words(data, words):
    with pytest.raises(NndiffError, match=words):
        decode(Scene, data)


def test_a_path_leads_through_any_class_of_a_family_and_an_item_goes_by_its_name():
    assert type_at(Scene, "first") is Shape
    assert type_at(Scene, "first.name") is str
    assert type_at(Scene, "first.radius") is float
    assert type_at(Scene, "first.sides") == tuple[int, int]
    assert type_at(Scene, "others.box") is Box
    assert type_at(Scene, "others.box.sides.1") is int
    assert type_at(Scene, "others.0.sides") == tuple[int, int]
    for path, words in (("first.radus", "did you mean 'radius'"), ("others.bx", "did you mean 'box'")):
        with pytest.raises(NndiffError, match=words):
            type_at(Scene, path)
    with pytest.raises(NndiffError, match=r"Unknown key 'radius' in others\.box"):
        type_at(Scene, "others.box.radius")


def test_the_rules_of_a_field_are_those_of_every_class_that_it_may_be_of():
    def words(path, name):
        return {row: rule.words for row, rule in rules_at(Scene, path, name).items()}

    assert words("first", "colour") == {"ball": "red or blue", "box": "red or green"}
    assert words("first", "radius") == {"ball": "at least 0"}
    assert words("others.box", "colour") == {"": "red or green"}
    assert words("first", "sides") == words("", "first") == words("others.0.sides", "0") == {}


def test_a_field_that_most_objects_lack_is_written_only_where_it_differs_from_its_default() -> None:
    usual = plan.Stage("all", plan.DENOISING, 1.0)
    slower = dataclasses.replace(usual, rate=0.8)
    assert "rate" not in encode(usual)
    assert encode(slower)["rate"] == 0.8
    assert [decode(plan.Stage, encode(stage)) for stage in (usual, slower)] == [usual, slower]
