"""The flags of samplers on the command line: each takes `auto`, and refuses what it cannot read."""

from __future__ import annotations

import pytest

from nndiff.cli import predict
from nndiff.walk.sampler import flags


@pytest.mark.parametrize("flag", [flag.name for flag in flags()])
def test_every_flag_of_a_sampler_takes_auto(flag, tmp_path, run_cli) -> None:
    outcome = run_cli(predict.main, "-i", tmp_path, "-o", tmp_path / "out", "-m", tmp_path / "no", f"--{flag}", "auto")
    assert outcome.code == 1
    assert "There is no such model" in outcome.err


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [("order", "3", "1, 2"), ("order", "two", "1, 2"), ("steps", "few", "a whole number"), ("eta", "x", "a number")],
)
def test_a_value_that_a_flag_cannot_read_is_refused_in_words(flag, value, expected, tmp_path, run_cli) -> None:
    outcome = run_cli(predict.main, "-o", tmp_path / "out", f"--{flag}", value)
    assert outcome.code == 2
    assert f"expected auto or {expected}; found {value}" in outcome.err


def test_the_help_of_part_names_every_layer_guide_and_cache(run_cli) -> None:
    out = " ".join(run_cli(predict.main, "-h").out.split())
    assert "tiles, shifts, identity, deep" in out
