"""The commands that hand a model on: what they print, how the model is named, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import nndiff
from nndiff.cli import export_model, install_model, predict, train
from tests.archive.made import contents, exported, model, zipped
from tests.prediction.trained import contents as predicted
from tests.prediction.trained import scans

QUIET = ("-device", "cpu", "--disable_progress_bar")


@pytest.fixture
def folder(roots) -> Path:
    return model(roots.results.parent)


def test_from_a_trained_model_to_predictions_elsewhere(tmp_path, roots, folder, run_cli) -> None:
    path = tmp_path / "out" / "pet.zip"
    code, out, err = run_cli(export_model.main, "-d", "1", "-o", path, "--licence", "CC BY 4.0")
    assert (code, err) == (0, "")
    assert f"Exported folds 0, 1: {path}" in out
    assert "licence" not in out
    code, out, err = run_cli(install_model.main, path, "--name", "low_count")
    assert (code, err) == (0, "")
    assert f"Installed: {roots.results / 'models' / 'low_count'}" in out
    assert "--model_name low_count" in out
    code, out, _ = run_cli(install_model.main, path, "--name", "low_count")
    assert code == 0
    assert "This model is installed already" in out
    inputs = scans(tmp_path / "in", 1)
    ways = {"a": ("-d", "1"), "b": ("-m", folder), "c": ("-m", path), "d": ("--model_name", "low_count")}
    for name, words in ways.items():
        code, out, err = run_cli(predict.main, "-i", inputs, "-o", tmp_path / name, *words, *QUIET)
        assert code == 0, err
    assert len({str(predicted(tmp_path / name)) for name in ways}) == 1


def test_half_is_measured_in_words_and_a_missing_licence_is_said(tmp_path, folder, run_cli) -> None:
    code, out, _ = run_cli(export_model.main, "-m", folder, "-f", "1", "-o", tmp_path / "half.zip", "--half")
    assert code == 0
    (line,) = [line for line in out.splitlines() if "float16" in line]
    assert line.startswith("Fold 1 as float16: on a random input, its network's output changes by ")
    assert line.rpartition("changes by ")[2] in contents(tmp_path / "half.zip")["MODEL_CARD.md"].decode()
    assert "states no licence" in out
    assert "Exported fold 1: " in out


def test_an_installed_model_that_there_is_not(tmp_path, roots, run_cli) -> None:
    inputs = scans(tmp_path / "in", 1)

    def asked(name: str) -> str:
        code, _, err = run_cli(predict.main, "-i", inputs, "-o", tmp_path / "out", "--model_name", name, *QUIET)
        assert code == 1
        assert not (tmp_path / "out").exists()
        return err

    assert "nndiff_install_model MODEL.zip" in asked("low_count")
    path = exported(tmp_path / "made")
    for name in ("low_count", "t1_to_t2"):
        nndiff.install_model(path, name)
    err = asked("low_cuont")
    assert "There is no installed model 'low_cuont'" in err
    assert "found low_count, t1_to_t2" in err
    assert "did you mean 'low_count'?" in err
    assert "There is no installed model '../results'" in asked("../results")


@pytest.mark.parametrize("words", [("-d", "1", "-m", "x"), ("-d", "1", "--model_name", "x"), ()], ids=str)
def test_a_model_is_named_in_one_way(tmp_path, folder, run_cli, words) -> None:
    code, _, err = run_cli(predict.main, "-i", tmp_path, "-o", tmp_path / "out", *words)
    assert code == 1
    assert "The model must be named in one way" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-d", "1", "-o", "model.tar"), "a name that ends in .zip"),
        (("-d", "1", "-c", "ddpm", "-o", "model.zip"), "There is no such model"),
        (("-d", "1", "-f", "7", "-o", "model.zip"), "fold_7 contains no checkpoint_best.pt"),
        (("-o", "model.zip"), "The model must be named in one way"),
    ],
    ids=str,
)
def test_an_export_that_cannot_be(tmp_path, folder, run_cli, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli(export_model.main, *words)
    assert code == 1
    assert message in err
    assert not (tmp_path / "model.zip").exists()


@pytest.mark.parametrize("part", ["MODEL_CARD.md", "fold_1.json", "fold_0.safetensors"])
def test_a_changed_part_is_refused_by_every_command(tmp_path, roots, run_cli, part) -> None:
    path = exported(tmp_path / "made")
    parts = contents(path)
    zipped(path, {**parts, part: parts[part].replace(b"0", b"1")})
    predicting = ("-i", scans(tmp_path / "in", 1), "-o", tmp_path / "out", "-m", path)
    for main, words in ((install_model.main, (path,)), (predict.main, predicting)):
        code, _, err = run_cli(main, *words)
        assert code == 1
        assert "has changed since the archive was made" in err
        assert part in err
        assert "Traceback" not in err
    assert not (roots.results / "models").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["-from", "--from", "-pretrained_weights", "--pretrained_weights"])
def test_a_training_begins_with_a_model_by_either_name_of_the_flag(flag, monkeypatch, run_cli, roots) -> None:
    asked: list[object] = []
    monkeypatch.setattr(nndiff, "train", lambda *_, **words: asked.append(words["begin_with"]) or Path("x"))
    (roots.raw / "Dataset001_Tiny").mkdir(parents=True)
    assert run_cli(train.main, "1", "bridge", "0", flag, "MODEL.zip", "--no_tune").code == 0
    assert run_cli(train.main, "1", "bridge", "0", f"{flag}=MODEL.zip", "--no_tune").code == 0
    assert asked == ["MODEL.zip", "MODEL.zip"]
