"""End-to-end tests of nndiff_predict: bad input, interruption, and continuation."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nndiff.checkpoint import BEST, LATEST
from nndiff.cli.predict import main
from nndiff.words.files import PART, read_json
from tests.conftest import SHAPE, make_phantom, save_volume
from tests.prediction.trained import contents, model_folder, plan_of, save_trained, scans

QUIET = ("-device", "cpu", "--disable_progress_bar")
DRAWN = ("--steps", "2", "--eta", "1")


@pytest.fixture
def trained(roots):
    return model_folder(roots.results.parent)


@pytest.fixture
def predict(tmp_path, trained, run_cli):
    """predict(*flags) → exit code, stdout, stderr; tmp_path/in → tmp_path/out; no debris, whatever happens."""

    def run(*flags):
        outcome = run_cli(main, "-i", tmp_path / "in", "-o", tmp_path / "out", "-m", trained, *QUIET, *flags)
        assert list((tmp_path / "out").rglob(f"{PART}*")) == []
        assert "Traceback" not in outcome.out + outcome.err
        return outcome

    return run


def said(text, *words):
    for word in words:
        assert word in text, text


def record(tmp_path):
    return read_json(tmp_path / "out" / "predict.json")


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("case_*.nii.gz")}


# ---------------------------------------------------------------- the model


def test_by_dataset_and_configuration_or_by_folder_it_is_one_model(tmp_path, trained, run_cli):
    scans(tmp_path / "in", 1)
    for name, model in (("number", ("-d", "1")), ("words", ("-d", "Dataset001_Tiny", "-c", "bridge")), ("m", None)):
        flags = model or ("-m", trained / "fold_0")
        code, out, err = run_cli(main, "-i", tmp_path / "in", "-o", tmp_path / name, *flags, *QUIET)
        assert code == 0, err
        assert "1 volume written" in out
    assert contents(tmp_path / "number") == contents(tmp_path / "words") == contents(tmp_path / "m")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("The model must be named in one way", "-m MODEL_FOLDER")),
        (("-d", "1", "-m", "model"), ("The model must be named in one way",)),
        (("-d", "2"), ("no dataset '2'", "Dataset001_Tiny")),
        (("-d", "1", "-c", "ddpm"), ("There is no such model", "Dataset001_Tiny/ddpm")),
        (("-d", "1", "-f", "0", "4"), (f"fold_4 contains no {BEST}", "expected one of fold_0")),
        (("-d", "1", "-chk", "checkpoint_latest"), (f"contains {LATEST}", f"-chk {BEST}")),
        (("-m", "/nowhere/bridge"), ("There is no such model", "/nowhere/bridge")),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_found(tmp_path, trained, run_cli, flags, words):
    scans(tmp_path / "in", 1)
    code, _, err = run_cli(main, "-i", tmp_path / "in", "-o", tmp_path / "out", *flags, *QUIET)
    assert code == 1
    said(err, "\nError: ", *words)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_in_another_configurations_folder(tmp_path, trained, run_cli):
    scans(tmp_path / "in", 1)
    save_trained(trained / "fold_0" / BEST, plan_of("ddpm"))
    code, _, err = run_cli(main, "-i", tmp_path / "in", "-o", tmp_path / "out", "-d", "1", *QUIET)
    assert code == 1
    said(err, "another configuration", "expected bridge; found ddpm", "-c ddpm")


# ---------------------------------------------------------------- the sampler


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--start", "draft", "--ts", "300"), {"start": {"name": "draft"}}),
        (("--times", "even:steps=3"), {"times": {"name": "even", "first": 1000, "steps": 3}}),
        (("--steps", "3", "--rule", "hot:ahead=3"), {"rule": {"name": "hot", "ahead": 3}}),
        (("--steps", "4", "--order", "2"), {"rule": {"name": "second"}}),
        (("--steps", "2", "--samples", "2"), {"samples": 2}),
        (("--part", "shifts:places=2", "identity"), {"guides": [{"name": "identity"}]}),
        (("--part", "auto", "--steps", "auto", "--rule", "auto"), {}),
    ],
    ids=str,
)
def test_the_record_says_the_parts_that_were_asked_for(tmp_path, predict, flags, expected):
    scans(tmp_path / "in", 1)
    assert predict("-o", tmp_path / "planned").code == 0
    planned = read_json(tmp_path / "planned" / "predict.json")["sampler"]
    code, _, err = predict(*flags)
    assert code == 0, err
    found = record(tmp_path)["sampler"]
    assert {name: found[name] for name in expected} == expected
    assert (found == planned) == (not expected)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--start", "drafty"), ("no start named 'drafty'", "did you mean 'draft'")),
        (("--rule", "hot:ahed=3"), ("no option 'ahed=3'", "did you mean 'ahead'")),
        (("--part", "shifts:places=0"), ("'places' is out of range", "at least 1")),
        (("--part", "shift"), ("no layer, guide or cache named 'shift'", "did you mean 'shifts'")),
        (("--eta", "1", "--order", "2"), ("Only one step rule can be chosen",)),
    ],
    ids=str,
)
def test_a_sampler_that_there_is_not_is_refused_before_the_first_case(tmp_path, predict, flags, words):
    scans(tmp_path / "in", 1)
    code, _, err = predict(*flags)
    assert code == 1
    said(err, *words)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- bad input


def test_every_bad_case_is_told_and_the_good_ones_are_done(tmp_path, predict):
    folder = scans(tmp_path / "in", 2)
    good = (folder / "case_0_0000.nii.gz").read_bytes()
    save_volume(folder / "two_0000.nii.gz", make_phantom(1))
    save_volume(folder / "two_0001.nii.gz", make_phantom(1))
    save_volume(folder / "unnumbered.nii.gz", make_phantom(1))
    holes = make_phantom(2)
    holes[3, 4, 5:7] = np.nan
    save_volume(folder / "holes_0000.mha", holes)
    save_volume(folder / "inf_0000.mha", np.where(holes > 1, np.inf, 1))
    save_volume(folder / "air_0000.nii.gz", np.zeros(SHAPE))
    (folder / "text_0000.nii.gz").write_text("these are no voxels")
    (folder / "none_0000.nii.gz").write_bytes(b"")
    (folder / "short_0000.nii.gz").write_bytes(good[: len(good) // 2])
    expected = {
        "two": "found channels [0, 1]",
        "unnumbered": "has no channel number",
        "holes": f"found 2 of {np.prod(SHAPE)}",
        "inf": "NaN or infinite",
        "air": "intensities do not differ",
        "text": "text_0000.nii.gz is damaged or incomplete",
        "none": "none_0000.nii.gz",
        "short": "damaged or incomplete",
    }
    code, _, err = predict()
    assert code == 1
    said(err, "8 of 10 cases failed", "remedy: ", *expected.values())
    found = record(tmp_path)
    assert list(found["cases"]) == ["case_0", "case_1"]
    assert set(found["failures"]) == set(expected)
    for case, words in expected.items():
        assert words in found["failures"][case]
        assert f"  {case}: {found['failures'][case]}" in err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "case_0_0000.nii.gz",
        "case_1_0000.nii.gz",
        "predict.json",
    }


def test_an_input_folder_that_is_empty_or_not_there(tmp_path, predict):
    code, _, err = predict()
    assert code == 1
    said(err, "input folder does not exist", str(tmp_path / "in"), "correct the path after -i")
    (tmp_path / "in").mkdir()
    code, _, err = predict()
    assert code == 1
    said(err, "input folder contains no image", "CASE_0000.nii.gz", "an empty folder")
    assert not (tmp_path / "out").exists()


def test_outputs_never_replace_the_scans(tmp_path, predict):
    folder = scans(tmp_path / "in", 1)
    before = contents(folder)
    (tmp_path / "link").symlink_to(folder)
    for name in ("in", "in/../in", "link"):
        code, _, err = predict("-o", tmp_path / name)
        assert code == 1
        said(err, "would replace the scans", "another folder after -o")
    assert contents(folder) == before


def test_a_checkpoint_that_is_cut_short(tmp_path, trained, predict):
    scans(tmp_path / "in", 1)
    path = trained / "fold_0" / BEST
    path.write_bytes(path.read_bytes()[:-1000])
    code, _, err = predict()
    assert code == 1
    said(err, "is damaged or incomplete", str(path), "remedy: ")
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_cannot_be_one(tmp_path, predict):
    scans(tmp_path / "in", 1)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, err = predict("-o", path)
        assert code == 1
        said(err, "Cannot write", str(path), "write permission")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_that_is_read_only(tmp_path, predict):
    scans(tmp_path / "in", 1)
    (tmp_path / "out").mkdir(mode=0o500)
    code, _, err = predict()
    assert code == 1
    said(err, "Cannot write", str(tmp_path / "out"), "write permission")


def test_warnings_are_told_at_the_end(tmp_path, predict):
    save_volume(tmp_path / "in" / "a_0000.nii.gz", 1000 * make_phantom(0), spacing=(6.0, 2.0, 2.0))
    code, _, err = predict()
    assert code == 0
    said(err, "Warning: a: PET: the intensities are outside the training range", "is coarser than that of the training")


def test_files_of_no_image_are_named(tmp_path, trained, run_cli):
    folder = scans(tmp_path / "in", 1)
    (folder / "notes.txt").write_text("")
    code, _, err = run_cli(main, "-i", folder, "-o", tmp_path / "out", "-m", trained, "-device", "cpu")
    assert code == 0
    said(err, "Ignored because of their names: notes.txt")


def test_a_full_disk_leaves_nothing_half_written_and_the_same_command_goes_on(tmp_path, predict, monkeypatch):
    replace_file = os.replace

    def full(source, target):
        if Path(target).name == "case_1_0000.nii.gz":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(source, target)

    scans(tmp_path / "in", 3)
    monkeypatch.setattr(os, "replace", full)
    code, _, err = predict()
    assert code == 1
    said(err, "1 of 3 cases failed", "case_1: The disk is full")
    assert {path.name[:6] for path in (tmp_path / "out").glob("case_*")} == {"case_0", "case_2"}
    monkeypatch.setattr(os, "replace", replace_file)
    said(predict("--continue_prediction").out, "1 volume written", "2 existed already")


# ---------------------------------------------------------------- going on


def test_what_is_there_is_kept_and_what_is_missing_is_made(tmp_path, predict):
    scans(tmp_path / "in", 3)
    predict(*DRAWN)
    whole, before = contents(tmp_path / "out"), times(tmp_path / "out")
    (tmp_path / "out" / "case_1_0000.nii.gz").unlink()
    del before["case_1_0000.nii.gz"]
    code, out, _ = predict(*DRAWN, "--continue_prediction")
    assert code == 0
    said(out, "1 volume written", "2 existed already")
    after = times(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert contents(tmp_path / "out") == whole
    assert set(record(tmp_path)["cases"]) == {"case_0", "case_1", "case_2"}


def test_without_going_on_everything_is_made_anew(tmp_path, predict):
    scans(tmp_path / "in", 2)
    predict()
    before = times(tmp_path / "out")
    predict()
    assert all(times(tmp_path / "out")[name] > before[name] for name in before)


def test_a_case_that_failed_and_was_mended_is_made(tmp_path, predict):
    scans(tmp_path / "in", 2)
    (tmp_path / "in" / "bad_0000.nii.gz").write_text("")
    assert predict().code == 1
    save_volume(tmp_path / "in" / "bad_0000.nii.gz", make_phantom(5))
    code, out, _ = predict("--continue_prediction")
    assert code == 0
    said(out, "1 volume written", "2 existed already")
    assert record(tmp_path)["failures"] == {}
    assert set(record(tmp_path)["cases"]) == {"bad", "case_0", "case_1"}


@pytest.mark.parametrize(
    ("flags", "word"),
    [(("--steps", "3"), "sampler"), (("--ts", "500"), "sampler"), (("--seed", "1"), "seed"), (("-f", "1"), "model")],
    ids=str,
)
def test_going_on_in_another_way_is_refused(tmp_path, trained, predict, flags, word):
    scans(tmp_path / "in", 2)
    save_trained(trained / "fold_1" / BEST, plan_of(), seed=1)
    predict("-f", "0")
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "case_1_0000.nii.gz").unlink()
    code, _, err = predict("-f", "0", *flags, "--continue_prediction")
    assert code == 1
    said(err, f"made with another {word}", str(tmp_path / "out" / "predict.json"), "another output folder")
    del before["case_1_0000.nii.gz"]
    assert contents(tmp_path / "out") == before


def test_going_on_after_more_training_is_refused(tmp_path, trained, predict):
    scans(tmp_path / "in", 1)
    predict()
    save_trained(trained / "fold_0" / BEST, plan_of(), seed=1, step=8)
    said(predict("--continue_prediction").err, "made with another model")


def test_going_on_with_a_model_trained_anew_is_refused(tmp_path, trained, predict):
    scans(tmp_path / "in", 1)
    predict()
    save_trained(trained / "fold_0" / BEST, plan_of(), seed=1)
    assert predict("--continue_prediction").code == 1


def test_a_model_is_the_same_by_a_relative_path(tmp_path, trained, predict, monkeypatch):
    scans(tmp_path / "in", 1)
    predict()
    monkeypatch.chdir(trained.parent)
    assert predict("-m", trained.name, "--continue_prediction").code == 0


def test_outputs_that_the_record_does_not_know_are_made_anew(tmp_path, predict):
    """Seed 0 made all; seed 1 was stopped after its first case; what goes on with seed 1 keeps none of seed 0."""
    scans(tmp_path / "in", 2)
    predict(*DRAWN, "--seed", "1")
    whole = contents(tmp_path / "out")
    predict(*DRAWN)
    (tmp_path / "in" / "case_1_0000.nii.gz").rename(tmp_path / "aside")
    predict(*DRAWN, "--seed", "1")
    (tmp_path / "aside").rename(tmp_path / "in" / "case_1_0000.nii.gz")
    assert predict(*DRAWN, "--seed", "1", "--continue_prediction").code == 0
    assert contents(tmp_path / "out") == whole


def test_going_on_makes_the_uncertainty_that_is_missing(tmp_path, predict):
    scans(tmp_path / "in", 1)
    predict(*DRAWN, "--samples", "2")
    predict(*DRAWN, "--samples", "2", "--save_uncertainty", "--continue_prediction")
    assert (tmp_path / "out" / "uncertainty" / "case_0_0000.nii.gz").exists()


HANG_HALF_WAY = """
import sys, time
from nndiff.imaging import io
write = io._write_image
def half(image, part):
    if part.parent.name == "out" and part.name.endswith("case_1_0000.nii.gz"):
        part.write_bytes(b"half")
        print("HALF", flush=True)
        time.sleep(60)
    write(image, part)
io._write_image = half
from nndiff.cli.predict import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_while_a_volume_is_written_and_gone_on_is_as_never_killed(tmp_path, trained, predict):
    scans(tmp_path / "in", 3)
    flags = (*DRAWN, "--samples", "2", "--save_uncertainty")
    predict("-o", tmp_path / "never", *flags)
    words = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-m", trained, *QUIET, *flags]
    process = subprocess.Popen(
        [sys.executable, "-c", HANG_HALF_WAY, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == "HALF\n"
    process.kill()
    process.communicate()
    assert list(record(tmp_path)["cases"]) == ["case_0"]
    assert not (tmp_path / "out" / "case_1_0000.nii.gz").exists()
    kept = times(tmp_path / "out")
    code, out, _ = predict(*flags, "--continue_prediction")  # which looks for debris
    assert code == 0
    said(out, "2 volumes written", "1 existed already")
    after = times(tmp_path / "out")
    assert {name: after[name] for name in kept} == kept
    assert contents(tmp_path / "out") == contents(tmp_path / "never")


@pytest.mark.parametrize("below", [".", "uncertainty", "samples"])
def test_what_a_killed_process_left_half_written_is_swept(tmp_path, predict, below):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = tmp_path / "out" / below / f"{PART}{platform.node()}_{process.pid}+case_0_0000.nii.gz"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    scans(tmp_path / "in", 1)
    assert predict().code == 0  # which looks for debris


def test_importing_nndiff_is_light(tmp_path):
    """The package names its stages without loading them."""
    heavy = "{'torch', 'SimpleITK', 'scipy', 'matplotlib'}"
    code = f"import nndiff, sys; nndiff.predict; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.returncode) == ("[]\n", 0)
