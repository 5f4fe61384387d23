"""Tests of nndiff_tune on a trained fold: the files it writes, how prediction uses them, and its refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nndiff import checkpoint
from nndiff.checkpoint import BEST, LATEST
from nndiff.cli import train as train_command
from nndiff.cli.tune import OBJECTIVES, main
from nndiff.prediction import models
from nndiff.sampling import inference
from nndiff.sampling.inference import FILE, Row, digest_of
from nndiff.training.run import train
from nndiff.tuning import search
from nndiff.tuning.run import HEADS, _figures, _line, up_to_date
from nndiff.words.errors import NndiffError
from nndiff.words.version import versions
from tests.training.tiny import NAME, prepare, request, tiny_plan
from tests.walks import changed, walk_of

pytestmark = pytest.mark.usefixtures("small_scales")


@pytest.fixture
def fold(roots) -> Any:
    """fold(cases, name) → the folder of a fold trained for two steps."""

    def make(cases: int = 6, configuration: str = "bridge") -> Path:
        plan = tiny_plan([configuration], training_steps=2)
        if configuration != "bridge":
            own = plan.configurations[configuration]
            own = replace(own, sampler=changed(own.sampler, first=6, steps=6))
            plan = replace(plan, configurations={configuration: own})
        prepare(roots.preprocessed.parent, plan, cases)
        asked = request(roots.preprocessed.parent, plan, configuration)
        return train(replace(asked, prepared=roots.preprocessed / NAME, results=roots.results / NAME))

    return make


def tuned(run_cli, *flags: Any, name: str = "bridge") -> Any:
    return run_cli(main, "1", name, "0", "-device", "cpu", *flags)


def loaded(folder: Path) -> Any:
    trained = checkpoint.load(folder / BEST)
    return inference.load(folder, BEST, trained.planned.sampler, digest_of(trained.ema))


def sampler_of(folder: Path) -> Any:
    return models.load(folder, None, BEST, torch.device("cpu"), None).sampler


@pytest.mark.parametrize("name", ["bridge", "ddpm", "prdit"])
def test_it_leaves_a_choice_a_picture_and_says_both(fold, run_cli, name) -> None:
    folder = fold(configuration=name)
    code, out, err = tuned(run_cli, "--time_budget", "20s", name=name)
    assert code == 0, err
    assert str(folder / FILE) in out
    assert (folder / "tuning.png").read_bytes().startswith(b"\x89PNG")
    found = loaded(folder)
    assert found is not None
    assert found.planned in [row.sampler for row in found.sweep]
    assert len(found.sweep) > 5
    assert found.versions == versions()
    assert sampler_of(folder) == found.sampler
    assert up_to_date(folder)
    for row in found.report:
        assert row.label in out
    assert "texture dB" in out


def test_the_choice_of_another_checkpoint_is_refused(fold, run_cli) -> None:
    folder = fold()
    tuned(run_cli, "--time_budget", "1s")
    found = checkpoint.load(folder / BEST)
    checkpoint.save(folder / BEST, replace(found, ema={name: value + 1 for name, value in found.ema.items()}))
    assert not up_to_date(folder)
    with pytest.raises(NndiffError, match=r"another checkpoint(.|\n)*nndiff_tune again, or delete"):
        sampler_of(folder)


def test_another_checkpoint_of_the_fold_predicts_as_planned(fold, run_cli) -> None:
    folder = fold()
    tuned(run_cli, "--time_budget", "1s")
    written = loaded(folder)
    inference.save(folder, replace(written, sampler=changed(written.sampler, steps=7)))
    assert sampler_of(folder).steps == 7
    assert models.load(folder, None, LATEST, torch.device("cpu"), None).sampler.steps == 1


def test_one_held_out_case_chooses_and_reports_and_is_warned_of(fold, run_cli) -> None:
    folder = fold(cases=5)  # five folds: one case each
    _, _, err = tuned(run_cli, "--time_budget", "1s")
    assert "single held-out case" in err
    found = loaded(folder)
    assert found.chosen_on == found.reported_on


def test_tuning_what_was_not_trained_says_so(roots, fold, run_cli) -> None:
    fold()
    code, _, err = run_cli(main, "1", "bridge", "3", "-device", "cpu")
    assert code == 1
    assert "train this fold first" in err


def test_training_tunes_at_its_end_unless_told_not_to(roots, fold, run_cli) -> None:
    folder = fold()
    words = ("1", "bridge", "0", "-device", "cpu", "-np", "0", "--c")
    run_cli(train_command.main, *words, "--no_tune")
    assert not (folder / FILE).exists()
    run_cli(train_command.main, *words)
    assert (folder / FILE).exists()


def test_the_table_leaves_a_cell_empty_where_there_is_no_figure() -> None:
    """Of a file from before, or of volumes without air."""
    row = Row("walk", walk_of("source", 1000, 1), 48.0, 30.0, 0.9, 0.1, 0.4, 3, seconds=2.0)
    assert _figures(row) == ["48.00", "30.00", "0.9000", "0.1000", "", "0.40", "", "", "", "2.00", "3"]
    local = replace(row, texture_db=4.25, hf_body=0.5, hf_air=12.0, correlation_bias=-0.2)
    assert _figures(local)[4:9] == ["4.25", "0.40", "0.50", "12.00", "-0.20"]
    assert len(_figures(row)) == len(HEADS) - 1
    assert _line(row).endswith("texture - dB (HF body -, air -, correlation -), 2.00 s")
    assert "texture 4.25 dB (HF body 0.50, air 12.00, correlation -0.20)" in _line(local)


def test_the_objectives_of_the_command_are_those_there_are() -> None:
    assert tuple(search.OBJECTIVES) == OBJECTIVES
