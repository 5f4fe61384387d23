"""The table of nndiff_find_best_configuration: 80 columns whatever the names, and nothing but JSON with --json."""

from __future__ import annotations

import json

import pytest

import nndiff
from nndiff.cli import find_best_configuration as command
from nndiff.evaluation.comparison import Candidate, Trial, compare
from nndiff.sampling.scoring import Figures
from nndiff.words.strict_json import encode

NAMES = ("bridge", "ddpm", "prdit_lowres", "bridge_with_a_very_long_name_of_its_own")


def compared(names=NAMES, cases=6, patients=6, folds=5, device="cpu"):
    candidates = []
    for i, name in enumerate(names):
        figures = {
            f"case_{k}": Figures(psnr=31.234 + k * k + i * (1 + k % 3), ssim=0.98765, mae=1234.5678, texture_db=12.3456)
            for k in range(cases)
        }
        seconds = dict.fromkeys(figures, 1234.5678)
        trials = tuple(
            Trial(str(f), "abc", 7, 10, f"{device} {i % 2}", {c: figures[c] for c in list(figures)[f::folds]}, seconds)
            for f in range(folds)
        )
        candidates.append(Candidate(name, trials, 123456789012))
    groups = {f"case_{k}": f"patient_{k % patients}" for k in range(cases)}
    return compare(candidates, groups | {f"training_{'x' * 40}_{k}": str(k) for k in range(30)})


@pytest.mark.parametrize(("cases", "patients", "folds"), [(6, 6, 5), (1, 1, 1), (6, 1, 2), (40, 20, 12)])
def test_the_table_fits_80_columns_and_says_everything(cases, patients, folds) -> None:
    found = compared(cases=cases, patients=patients, folds=folds, device="cuda: a card with a name as long as this one")
    text = command.table(found)
    assert max(map(len, text.splitlines())) <= 80
    for name in NAMES[:3]:
        assert name in text
    joined = " ".join(text.split())
    assert found.advice in joined
    assert "Left out: 30 cases" in joined
    assert "held out by no fold" in joined
    assert "Seconds cannot be compared" in joined
    assert ("There is no interval, because all cases are of one patient" in joined) == (patients == 1)
    assert ("Mean over the folds" in joined) == (folds > 1)


def test_neighbouring_folds_are_written_as_a_range() -> None:
    def cell(*folds):
        row = compared(folds=3).rows[0]
        own = tuple(type(row.folds[0])(fold, "", 0, 1, 0, None) for fold in folds)
        return command._folds(type(row)("a", own, row.figures, row.figures, 0.0, 0, 0.0, None))

    assert cell("0", "1", "2", "3", "4") == "0-4"
    assert (cell("0"), cell("0", "1"), cell("0", "2", "3"), cell("2", "3", "4")) == ("0", "0 1", "0 2 3", "2-4")


@pytest.fixture
def asked(roots, monkeypatch):
    """The arguments that the command hands on; the comparison is a made one."""
    (roots.results / "Dataset001_Tiny").mkdir(parents=True)
    seen = []
    monkeypatch.setattr(nndiff, "find_best_configuration", lambda *a, **k: seen.append((a, k)) or compared())
    return seen


def test_json_is_the_comparison_and_nothing_else(asked, run_cli) -> None:
    outcome = run_cli(command.main, "1", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out) == encode(compared())


def test_flags_are_handed_on_and_the_next_command_is_named(asked, run_cli, roots) -> None:
    outcome = run_cli(command.main, "1", "-c", "bridge", "ddpm", "-f", "0", "1", "-np", "0", "-device", "cpu")
    assert outcome.code == 0
    assert "nndiff_predict -i IN -o OUT -d 001 -c best" in outcome.out
    ((given, words),) = asked
    assert given == ("1", ["bridge", "ddpm"], ["0", "1"])
    assert (words["workers"], words["device"], words["results"]) == (0, "cpu", roots.results)


@pytest.mark.parametrize("flag", ["-p", "-tr", "--disable_ensembling", "--no_overwrite"])
def test_flags_of_nnunet_are_refused_with_advice(flag, run_cli) -> None:
    outcome = run_cli(command.main, "1", flag)
    assert outcome.code == 2
    assert f"nndiff does not have nnU-Net's flag -{flag.lstrip('-')}: " in outcome.err
