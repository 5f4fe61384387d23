"""Tests of the command line: fast help, flags with one or two dashes, and errors about wrong flags."""

import re
import subprocess
import sys
from importlib.metadata import distribution

import pytest

from nndiff.cli import extract_fingerprint, find_best_configuration, plan, plan_and_preprocess, preprocess, train
from nndiff.cli.command import NNUNET_FLAGS

SCRIPTS = {point.name: point for point in distribution("nndiff").entry_points.select(group="console_scripts")}
ON_DATASETS = {
    "extract_fingerprint": extract_fingerprint.main,
    "plan": plan.main,
    "preprocess": preprocess.main,
    "plan_and_preprocess": plan_and_preprocess.main,
}
HEAVY = ("torch", "SimpleITK", "scipy", "matplotlib", "pandas", "tqdm")

ONLY_TRAINING = ("batchgenerators", "pandas", "skimage", "matplotlib")

every_script = pytest.mark.parametrize("name", SCRIPTS)
every_command = pytest.mark.parametrize("name", sorted(SCRIPTS.keys() - {"nndiff"}))  # which has no flags of its own
on_datasets = pytest.mark.parametrize("main", ON_DATASETS.values(), ids=ON_DATASETS)


@every_script
def test_help_in_a_fresh_process_loads_nothing_heavy(name):
    code = (
        f"import sys; from {SCRIPTS[name].module} import main\n"
        "try: main(['--help'])\n"
        f"finally: print('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0
    assert f"usage: {name} " in done.stdout
    assert done.stdout.endswith("LOADED []\n")


@every_command
def test_the_line_of_usage_spells_flags_as_the_list_below_does(name, capsys):
    with pytest.raises(SystemExit):
        SCRIPTS[name].load()(["--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0]
    assert re.findall(r"[ |(\[](-\w{2,})", usage) == []


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("nndiff_predict", ["-d", "9", "-i", "{here}", "-o", "{here}/out"], "There is no dataset '9'"),
        ("nndiff_predict", ["-m", "{here}/no", "-i", "{here}", "-o", "{here}/out"], "There is no such model"),
        ("nndiff_predict", ["-m", "{here}", "-i", "{here}/no", "-o", "{here}/out"], "The input folder does not exist"),
        ("nndiff_train", ["9", "bridge", "0"], "There is no dataset '9'"),
        ("nndiff_tune", ["9", "bridge", "0"], "There is no dataset '9'"),
        ("nndiff_find_best_configuration", ["9"], "There is no dataset '9'"),
        ("nndiff_plan", ["-d", "9"], "There is no dataset '9'"),
        ("nndiff_export_model", ["-m", "{here}/no", "-o", "{here}/m.zip"], "There is no such model"),
        ("nndiff_install_model", ["{here}/no.zip"], "installed from a zip file"),
        ("nndiff_predict", ["--model_name", "x", "-o", "{here}/out"], "There is no installed model 'x'"),
        ("nndiff_preprocess", ["-d", "9"], "There is no dataset '9'"),
        ("nndiff_extract_fingerprint", ["-d", "9"], "There is no dataset '9'"),
        ("nndiff_plan_and_preprocess", ["-d", "9"], "There is no dataset '9'"),
    ],
)
def test_a_wrong_path_is_refused_before_anything_heavy_is_loaded(name, flags, message, tmp_path):
    roots = [word for root in ("raw", "preprocessed", "results") for word in (f"--{root}", str(tmp_path))]
    argv = [*(flag.format(here=tmp_path) for flag in flags), *roots]
    code = (
        f"import sys; from {SCRIPTS[name].module} import main\n"
        f"print(main({argv}), 'LOADED', [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert message in done.stderr
    assert done.stdout.endswith("1 LOADED []\n")


def test_prediction_does_not_load_what_only_training_needs():
    code = f"import sys, nndiff.prediction; print([m for m in {ONLY_TRAINING} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


@every_command
@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_by_any_dash(name, flag, run_cli):
    code, out, err = run_cli(SCRIPTS[name].load(), flag)
    assert (code, err) == (0, "")
    for word in ("-h, --help", "--raw FOLDER", "--preprocessed FOLDER", "--results FOLDER", "--debug", "--version"):
        assert word in out


@every_command
def test_help_explains_every_flag_once(name, run_cli):
    _, out, _ = run_cli(SCRIPTS[name].load(), "-h")
    options = out.partition("options:\n")[2]
    rows = [line for line in options.splitlines() if line.startswith("  -")]
    names = [row.split()[0] for row in rows]
    assert len(names) == len(set(names))
    assert "SUPPRESS" not in options
    assert "None" not in options


@on_datasets
@pytest.mark.parametrize("dash", ["-", "--"])
def test_long_flags_work_with_one_dash_or_two(main, dash, tmp_path, run_cli):
    (tmp_path / "empty").mkdir()
    flags = [f"{dash}raw", tmp_path / "empty", f"{dash}preprocessed", tmp_path / "empty", f"{dash}dataset", "5"]
    code, _, err = run_cli(main, *flags)
    assert code == 1
    assert "There is no dataset '5'" in err


@on_datasets
def test_without_a_dataset_the_flag_is_named(main, run_cli):
    code, _, err = run_cli(main)
    assert code == 2
    assert "--dataset" in err
    assert "-h for a list of all flags" in err


@on_datasets
@pytest.mark.parametrize("flag", sorted(NNUNET_FLAGS))
@pytest.mark.parametrize("dash", ["", "-"])
def test_nnunet_flags_without_meaning_are_refused_with_the_one_to_use(main, flag, dash, run_cli):
    code, _, err = run_cli(main, "-d", "1", dash + flag, "x")
    assert code == 2
    assert NNUNET_FLAGS[flag] in err
    assert f"nnU-Net's flag {flag}: " in err


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("--datset", "--dataset"),
        ("-gpu_memory_targt", "--gpu_memory_target"),
        ("--gpu-memory-target", "--gpu_memory_target"),
        ("--dryrun", "--dry-run"),
        ("--preprocesed", "--preprocessed"),
    ],
)
def test_an_unknown_flag_names_the_nearest(typed, near, run_cli):
    code, _, err = run_cli(plan_and_preprocess.main, "-d", "1", typed, "x")
    assert code == 2
    assert f"unknown flag {typed}: did you mean '{near}'?" in err


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (train.main, ["-d", "1", "-c", "bridge", "-f", "0"], "flag -d: give it by its place: nndiff_train DATASET"),
        (train.main, ["1", "bridge", "0", "9"], "too many values: 9; expected DATASET CONFIG FOLD and flags"),
        (find_best_configuration.main, ["-d", "1"], "by its place: nndiff_find_best_configuration DATASET"),
        (plan.main, ["-d", "1", "-f", "0"], "unknown flag -f: did you mean"),
    ],
)
def test_what_a_command_takes_by_its_place_is_said_where_it_is_given_as_a_flag(main, words, message, run_cli):
    code, _, err = run_cli(main, *words)
    assert code == 2
    assert message in err


def test_flags_are_never_guessed_from_their_beginning(run_cli):
    code, _, err = run_cli(plan.main, "-d", "1", "--over", "1")
    assert code == 2
    assert "unknown flag --over" in err


@pytest.mark.parametrize("count", ["-1", "two", "1.5"])
def test_a_number_of_workers_is_a_number(count, run_cli):
    code, _, err = run_cli(preprocess.main, "-d", "1", "-np", count)
    assert code == 2
    assert "-np" in err
    assert "whole number" in err


def test_both_ways_to_switch_the_integrity_check(tmp_path, run_cli):
    for flag in ("-verify_dataset_integrity", "--verify_dataset_integrity"):
        for spelled in (flag, flag.replace("verify", "no-verify")):
            code, _, err = run_cli(extract_fingerprint.main, "-d", "1", spelled, "--raw", tmp_path)
            assert (code, "There is no dataset" in err) == (1, True)


def test_debug_shows_the_traceback_and_nothing_else_does(tmp_path, run_cli):
    _, _, err = run_cli(plan.main, "-d", "1", "--raw", tmp_path)
    assert "Traceback" not in err
    code, _, err = run_cli(plan.main, "-d", "1", "--raw", tmp_path, "--debug")
    assert code == 1
    assert "Traceback" in err
    assert "There is no dataset" in err


def test_a_flag_before_or_after_means_the_same_whatever_the_environment(tmp_path, roots, run_cli):
    (roots.raw / "Dataset001_Environment").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    code, _, err = run_cli(plan.main, "--raw", tmp_path / "other", "-d", "1")
    assert code == 1
    assert "There is no dataset '1'" in err
    code, _, err = run_cli(plan.main, "-d", "1")
    assert "fingerprint.json is missing" in err
    assert "nndiff_extract_fingerprint -d 1" in err
