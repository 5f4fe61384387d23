"""Tests of rules of fields: the values that they accept, their errors, and that no object violates them."""

import dataclasses
import math
from typing import Annotated

import pytest

from nndiff.words.errors import NndiffError
from nndiff.words.fields import Checked, Rule, above, at_least, one_of, option, options_of, rules_of, within


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (at_least(1), [1, 1.0, 7, (1, 2, 3), [4], (), None], [0, 0.99, (1, 0, 3), [0], math.nan]),
        (at_least(1, 64), [1, 64, (2, 64)], [0, 65, (2, 65), 10**12, math.inf, math.nan]),
        (above(0), [1e-9, 3, (0.1, 2)], [0, -3, (1, 0), math.nan]),
        (within(0, 1), [0, 0.5, 1], [-1e-9, 1.01, math.inf, math.nan]),
        (one_of("bf16", "fp32"), ["bf16", "fp32"], ["fp16", "", None]),
        (one_of(1, 2), [1, 2], [0, 3, "1"]),
    ],
    ids=lambda value: value.words if isinstance(value, Rule) else "",
)
def test_a_rule_holds_of_what_it_should(rule, good, bad):
    for value in good:
        rule.demand("x", value)
    for value in bad:
        with pytest.raises(NndiffError, match=r"^'x' is out of range\.\n"):
            rule.demand("x", value)


def test_a_rule_says_what_was_expected_and_what_was_found():
    with pytest.raises(NndiffError) as raised:
        above(0, " mm").demand("spacing", (1.0, -2.0, 1.0))
    assert raised.value.what == "'spacing' is out of range."
    assert (raised.value.expected, raised.value.found) == ("above 0 mm", (1.0, -2.0, 1.0))
    assert within(0, 0.999).words == "0 to 0.999"
    assert one_of("a", "b", 3).words == "a or b or 3"


@dataclasses.dataclass(frozen=True)
class Sized(Checked):
    width: Annotated[int, "in channels", at_least(4)]
    mode: Annotated[str, one_of("fast", "slow")] = "fast"
    free: int = -1


@dataclasses.dataclass(frozen=True)
class Wider(Sized):
    eta: float = option(
        0.0, within(0, 1), help="fresh noise", flag="eta", metavar="X", type=float, of=lambda typed: 1 - typed
    )
    places: int = option(1, at_least(1), help="no flag of its own")


@pytest.mark.parametrize(
    ("words", "name"), [({"width": 3}, "width"), ({"width": 4, "mode": "slw"}, "mode"), ({"width": 4, "eta": 2}, "eta")]
)
def test_no_object_is_made_that_breaks_a_rule(words, name):
    with pytest.raises(NndiffError, match=f"'{name}' is out of range"):
        Wider(**words)


def test_a_changed_copy_is_checked_too():
    with pytest.raises(NndiffError, match="'places'"):
        dataclasses.replace(Wider(4), places=0)


def test_rules_are_found_in_annotations_in_options_and_in_bases():
    assert {name: rule.words for name, rule in rules_of(Sized).items()} == {
        "width": "at least 4",
        "mode": "fast or slow",
    }
    assert set(rules_of(Wider)) == {"width", "mode", "eta", "places"}


def test_an_option_has_a_default_and_a_command_line_knows_those_with_a_flag():
    assert (Wider(4).eta, Wider(4).places) == (0.0, 1)
    (found,) = options_of(Wider)
    assert (found.field, found.flag, found.help, found.metavar) == ("eta", "eta", "fresh noise", "X")
    assert found.type("0.25") == 0.25
    assert found.of(0.25) == 0.75
    assert options_of(Sized) == []
