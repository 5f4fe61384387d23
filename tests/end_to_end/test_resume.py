"""End-to-end tests of resuming: after a stop anywhere, the same command keeps finished work and redoes changed work."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nndiff
from nndiff.cli.preprocess import main
from nndiff.data import fingerprint
from nndiff.imaging import store
from nndiff.planning import planner
from nndiff.plans.plan import save
from nndiff.resources.memory import Cost
from nndiff.resources.owner import owned
from nndiff.words import dataset
from nndiff.words.budget import Budget
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART
from nndiff.words.stopping import STOPPING
from tests.conftest import SHAPE, make_phantom, save_volume

BUDGET = Budget("cuda", "any", 8 * 10**9, "test", True, 2)


def cheap(spec, puzzle, patch, batch):
    """A closed form in place of the traced memory."""
    return Cost(10**6, 10**9)


@pytest.fixture
def planned(raw_dataset, roots, run_cli):
    """planned(cases=…) → the raw folder, the prepared one, the command; the plan stands, nothing is prepared yet."""

    def make(cases=3, configurations=("bridge",), **words):
        raw = raw_dataset(cases=cases, **words)
        found, _ = fingerprint.extract(dataset.read(raw), 0)
        folder = roots.preprocessed / raw.name
        save(folder / "plan.json", planner.plan(found, BUDGET, configurations, predict=cheap))
        return raw, folder, lambda *flags: run_cli(main, "-d", "1", "-np", "0", *flags)

    return make


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("words", [{"masks": True}, {"in_place": True}, {"targets": ("PET", "CT")}], ids=str)
def test_done_is_done(planned, words):
    _, folder, prepare = planned(**words)
    assert "bridge: 3 cases preprocessed; folder" in prepare().out
    before = times(folder / "bridge")
    assert len(before) == (12 if "masks" in words else 9)
    assert "0 cases preprocessed, 3 already up to date" in prepare().out
    assert times(folder / "bridge") == before


@pytest.mark.parametrize(("left", "words"), [(1000, "is damaged"), (10, "is damaged")])
def test_after_a_failure_only_the_rest_is_done(planned, left, words):
    raw, folder, prepare = planned()
    path = raw / "imagesTr" / "case_0_0000.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    code, out, err = prepare()
    assert code == 1
    assert "1 of 3 cases failed" in err
    assert f"case_0_0000.nii.gz {words}" in err
    assert str(path) in err
    assert "same command again" in err
    assert "Traceback" not in out + err
    assert store.cases(folder / "bridge") == ["case_1", "case_2"]
    kept = times(folder / "bridge")
    path.write_bytes(whole)
    code, out, _ = prepare()
    assert (code, "1 case preprocessed, 2 already up to date" in out) == (0, True)
    assert {name: when for name, when in times(folder / "bridge").items() if "case_0" not in name} == kept


@pytest.mark.parametrize("lost", ["case_1.json", "case_1_target.npy", "case_1_source.npy"])
@pytest.mark.parametrize("how", ["gone", "empty", "cut"])
def test_what_was_lost_or_damaged_is_done_again(planned, lost, how):
    """The remedy that a damaged case names is this very command."""
    _, folder, prepare = planned()
    prepare()
    before = contents(folder / "bridge")
    path = folder / "bridge" / lost
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else before[lost][: len(before[lost]) // 2])
    code, out, err = prepare()
    assert code == 0, err
    assert "1 case preprocessed, 2 already up to date" in out
    assert contents(folder / "bridge") == before


def test_a_changed_scan_is_prepared_again(planned):
    raw, folder, prepare = planned()
    prepare()
    before = contents(folder / "bridge")
    save_volume(raw / "targetsTr" / "case_1_0000.nii.gz", make_phantom(77))
    assert "1 case preprocessed, 2 already up to date" in prepare().out
    changed = {name for name, data in contents(folder / "bridge").items() if data != before[name]}
    assert changed == {"case_1.json", "case_1_target.npy"}


def test_a_new_mask_or_patient_is_taken_up(planned):
    raw, folder, prepare = planned(groups={"case_0": "p"})
    prepare()
    save_volume(raw / "masksTr" / "case_1.nii.gz", make_phantom(0) > 0.5, dtype=np.uint8)
    text = (raw / "dataset.json").read_text()
    (raw / "dataset.json").write_text(text.replace('"case_0": "p"', '"case_0": "p", "case_2": "p"'))
    assert "2 cases preprocessed, 1 already up to date" in prepare().out
    assert (folder / "bridge" / "case_1_mask.npy").exists()
    assert store.read_record(folder / "bridge", "case_2")["group"] == "p"
    (raw / "masksTr" / "case_1.nii.gz").unlink()
    prepare()
    assert not (folder / "bridge" / "case_1_mask.npy").exists()


def test_another_plan_prepares_anew(planned):
    from dataclasses import replace

    from nndiff.plans.plan import Plan, load

    _, folder, prepare = planned()
    prepare()
    plan = load(Plan, folder / "plan.json")
    coarse = replace(plan.configurations["bridge"], spacing=(4.0, 4.0, 4.0))
    save(folder / "plan.json", replace(plan, configurations={"bridge": coarse}))
    assert "bridge: 3 cases preprocessed; folder" in prepare().out
    assert store.open_case(folder / "bridge", "case_0")["source"].shape == (1, *(n // 2 for n in SHAPE))


def test_a_case_that_left_the_dataset_leaves_the_store(planned):
    raw, folder, prepare = planned()
    prepare()
    for side in ("imagesTr", "targetsTr"):
        (raw / side / "case_1_0000.nii.gz").unlink()
    out = prepare().out
    assert "1 removed that the dataset no longer contains" in out
    assert {path.name.split("_")[1][0] for path in (folder / "bridge").iterdir()} == {"0", "2"}


@pytest.mark.parametrize("together", [True, False])
def test_configurations_with_one_preparation_share_their_files(planned, together):
    _, folder, prepare = planned(configurations=("bridge", "ddpm"))
    if together:
        prepare()
    else:
        prepare("-c", "bridge")
        prepare("-c", "ddpm")
    for path in (folder / "bridge").glob("*.npy"):
        assert path.samefile(folder / "ddpm" / path.name)
    assert contents(folder / "bridge") == contents(folder / "ddpm")
    assert "0 cases preprocessed, 3 already up to date" in prepare("-c", "ddpm").out


def test_a_shared_case_that_changes_changes_in_both(planned):
    raw, folder, prepare = planned(configurations=("bridge", "ddpm"))
    prepare()
    save_volume(raw / "targetsTr" / "case_1_0000.nii.gz", make_phantom(77))
    out = prepare().out
    assert out.count("1 case preprocessed, 2 already up to date") == 2
    assert contents(folder / "bridge") == contents(folder / "ddpm")
    assert (folder / "bridge" / "case_1_target.npy").samefile(folder / "ddpm" / "case_1_target.npy")


HANG_HALF_WAY = """
import sys, time
import numpy as np
save = np.save
def half(stream, array):
    if "case_1_target" in stream.name:
        stream.write(b"half")
        stream.flush()
        print("HALF", flush=True)
        time.sleep(60)
    save(stream, array)
np.save = half
import nndiff
from nndiff.cli.preprocess import main
sys.exit(main(["-d", "1", "-np", "0"]))
"""


def heard():
    """Let no signal be ignored, as Ctrl-C is in a shell's background job and SIGHUP under nohup."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_DFL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_killed_while_a_file_is_written_and_run_again(planned, tmp_path, how):
    _, folder, prepare = planned()
    script = tmp_path / "hang.py"
    script.write_text(HANG_HALF_WAY)
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        preexec_fn=heard,
    )
    assert process.stdout.readline() == "HALF\n"
    process.send_signal(how)
    _, err = process.communicate()
    if how != signal.SIGKILL:
        assert process.returncode == (130 if how == signal.SIGINT else 75)
        assert "Finished work is kept. To go on, run\n\n  nndiff_preprocess -d 1 -np 0\n" in err
        assert "Traceback" not in err
        assert [path for path in (folder / "bridge").iterdir() if path.name.startswith(PART)] == []

    final = [path for path in (folder / "bridge").iterdir() if not path.name.startswith(PART)]
    assert {path.name for path in final} >= {"case_0.json", "case_0_source.npy", "case_0_target.npy"}
    assert not (folder / "bridge" / "case_1.json").exists()
    for path in final:
        if path.suffix == ".npy":
            np.load(path)  # whole
    code, out, _ = prepare()
    assert (code, "2 cases preprocessed, 1 already up to date" in out) == (0, True)
    assert store.cases(folder / "bridge") == ["case_0", "case_1", "case_2"]


def test_a_preprocessed_dataset_has_one_owner(planned):
    _, folder, prepare = planned()
    plan = (folder / "plan.json").read_bytes()
    with owned(folder):
        code, _, err = prepare()
        assert (code, "Another program writes into this folder" in err) == (1, True)
        with pytest.raises(NndiffError, match="Another program"):
            nndiff.plan("1", ["ddpm"], workers=0)
    assert not (folder / "bridge").exists()
    assert (folder / "plan.json").read_bytes() == plan
    assert prepare().code == 0
    assert not list(folder.glob(".*"))


def test_a_full_disk_keeps_what_is_finished(planned, monkeypatch):
    import errno

    _, folder, prepare = planned()
    replace_file = os.replace

    def full(source, target):
        if "case_1_target" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    code, _, err = prepare()
    assert code == 1
    assert "The disk is full" in err
    assert "case_1" in err
    monkeypatch.setattr(os, "replace", replace_file)
    assert [path.name for path in (folder / "bridge").iterdir() if path.name.startswith(PART)] == []
    assert "1 case preprocessed, 2 already up to date" in prepare().out


def test_too_little_disk_is_said_before_the_work(planned, monkeypatch):
    from nndiff.data import preprocess

    _, folder, prepare = planned()
    monkeypatch.setattr(preprocess, "disk_free", lambda _: 1000)
    code, _, err = prepare()
    assert code == 1
    assert "not enough free disk space" in err
    assert "--preprocessed" in err
    assert not (folder / "bridge").exists()


def test_without_a_plan_or_with_a_broken_one(planned):
    _, folder, prepare = planned()
    path = folder / "plan.json"
    text = path.read_text()
    path.unlink()
    assert "nndiff_plan -d 1" in prepare().err
    path.write_text(text.replace('"batch_size"', '"batch_sise"'))
    code, _, err = prepare()
    assert (code, "did you mean 'batch_size'?" in err, str(path) in err) == (1, True, True)
    path.write_text(text)
    code, _, err = prepare("-c", "ddpm")
    assert code == 1
    assert "nndiff_plan -d 001 -c ddpm" in err
