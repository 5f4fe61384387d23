"""Laws of the prediction of a folder: what a case depends on, the mean and std of several draws, and the record."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

import nndiff
from nndiff import checkpoint
from nndiff.checkpoint import BEST
from nndiff.imaging import io
from nndiff.prediction import Request, Summary, draws, outputs, pipeline, reading, schedule
from nndiff.prediction.inputs import InputCase
from nndiff.resources.apart import Apart
from nndiff.resources.owner import owned
from nndiff.sampling.inference import digest_of
from nndiff.walk.sampler import flags
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json
from nndiff.words.strict_json import encode
from nndiff.words.volume import Grid
from tests.conftest import SHAPE, make_phantom, save_volume
from tests.imaging.series import write_series
from tests.prediction.trained import contents, model_folder, plan_of, save_trained, scans

RANDOM = {"steps": 2, "eta": 1.0}  # of a bridge: noise at its first step


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A bridge with drawn weights."""
    return model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def predict(tmp_path, trained):
    """predict(name, …) → the Summary, outputs in tmp_path/name."""

    def run(name="out", model=trained, source="in", **options):
        return nndiff.predict(
            tmp_path / source if source else None, tmp_path / name, model, device="cpu", quiet=True, **options
        )

    return run


def array(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_no_field_of_a_request_has_the_name_of_a_samplers_flag():
    """Both are keywords of nndiff.predict."""
    fields = {field.name for field in dataclasses.fields(Request)}
    assert not fields & {flag.name for flag in flags()}


def test_an_option_of_either_is_passed_on_and_another_is_refused(tmp_path, predict):
    scans(tmp_path / "in", 1)
    record = read_json(predict(part=["shifts:places=2"], rule="hot:ahead=2", steps=2, seed=4).record)
    assert (record["sampler"]["layers"][1]["places"], record["sampler"]["rule"]["ahead"]) == (2, 2)
    assert record["seed"] == 4
    with pytest.raises(NndiffError, match=r"no option 'stpes'(.|\n)*did you mean 'steps'"):
        predict(stpes=2)


# ---------------------------------------------------------------- what a case depends on


@pytest.fixture
def whole(tmp_path, predict):
    """What a folder of four scans becomes in one call."""
    scans(tmp_path / "in", 4)
    predict("whole", **RANDOM)
    return contents(tmp_path / "whole")


def test_the_same_again_gives_the_same_bytes(tmp_path, predict, whole):
    predict("again", **RANDOM)
    assert contents(tmp_path / "again") == whole
    assert len(set(whole.values())) == 4


def test_a_dicom_series_is_translated_as_the_same_scan_in_a_file(tmp_path, predict):
    grid = Grid(SHAPE, (3.0, 2.0, 2.0), (1.0, -20.0, 7.0))
    write_series(tmp_path / "dicom" / "case_0", make_phantom(0), grid, "PT", Units="GML")
    volume = io.read([tmp_path / "dicom" / "case_0"])
    io.write(volume, tmp_path / "files" / "case_0_0000.nii.gz")
    predict("from_dicom", source="dicom", **RANDOM)
    predict("from_file", source="files", **RANDOM)
    there, here = (tmp_path / name / "case_0_0000.nii.gz" for name in ("from_dicom", "from_file"))
    np.testing.assert_allclose(array(there), array(here), rtol=1e-5, atol=1e-6)
    assert io.read([there]).grid.difference(volume.grid) is None


def test_a_derived_series_has_the_patient_and_the_place_of_its_source(tmp_path, predict):
    grid = Grid(SHAPE, (3.0, 2.0, 1.75), (1.0, -20.0, 7.0))
    write_series(tmp_path / "in" / "anna", make_phantom(0), grid, "PT", Units="GML")
    scans(tmp_path / "in", 1)
    with pytest.raises(NndiffError, match="1 of 2 cases failed"):
        predict(dicom_out=True, **RANDOM)
    made, volume = (tmp_path / "out" / name for name in ("dicom/anna_0000", "anna_0000.nii.gz"))
    assert not (tmp_path / "out" / "dicom" / "case_0_0000").exists()
    ours, nifti, theirs = io.read([made]), io.read([volume]), io.read([tmp_path / "in" / "anna"])
    assert ours.grid.difference(theirs.grid) is None
    np.testing.assert_allclose(ours.array, np.maximum(nifti.array, 0), atol=1e-4 * float(np.abs(nifti.array).max()))
    predict(dicom_out=True, go_on=True, source="in/anna", **RANDOM)
    before = {path: path.read_bytes() for path in made.iterdir()}
    assert len(before) == SHAPE[0]
    predict(dicom_out=True, go_on=True, source="in/anna", **RANDOM)
    assert {path: path.read_bytes() for path in made.iterdir()} == before, "what is there is kept"


def test_one_that_ends_before_its_first_case_goes_on_where_others_were_before(tmp_path, predict, monkeypatch):
    """What an earlier prediction with other settings left behind is not taken for its own."""

    def killed(*_):
        raise KeyboardInterrupt

    scans(tmp_path / "in", cases=2)
    predict(steps=1)
    with monkeypatch.context() as patched:
        patched.setattr(schedule.Schedule, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            predict(**RANDOM)
    summary = predict(go_on=True, **RANDOM)
    assert (len(summary.done), summary.skipped) == (2, [])


@pytest.mark.parametrize(
    "text", ["[]", '{"cases": []}', '{"model": [1]}', '{"sampler": 2}', '{"sampler": {"start_step": 1}}']
)
def test_a_record_that_is_none_is_not_taken_over(tmp_path, predict, text):
    scans(tmp_path / "in", cases=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predict.json").write_text(text)
    words = r"(is not the record of a prediction|does not have the form of that version)[\s\S]*where: .*predict\.json"
    with pytest.raises(NndiffError, match=words):
        predict(go_on=True)
    assert (tmp_path / "out" / "predict.json").read_text() == text


def test_an_output_folder_has_one_owner_and_parts_share_it(tmp_path, predict):
    scans(tmp_path / "in", cases=2)
    with owned(tmp_path / "out"), pytest.raises(NndiffError, match="Another program writes into this folder"):
        predict()
    with owned(tmp_path / "out", "_part_0_of_2"):
        assert len(predict(num_parts=2, part_id=1).done) == 1
        with pytest.raises(NndiffError, match="Another program writes into this folder"):
            predict(num_parts=2, part_id=0)
    predict()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_case_does_not_depend_on_its_neighbours(tmp_path, predict, whole):
    """Neither on fewer, nor on one that comes before and fails."""
    for case in (1, 3):
        (tmp_path / "in" / f"case_{case}_0000.nii.gz").unlink()
    (tmp_path / "in" / "a_0000.nii.gz").write_text("no image")
    with pytest.raises(NndiffError, match="1 of 3 cases failed"):
        predict("fewer", **RANDOM)
    fewer = contents(tmp_path / "fewer")
    assert fewer == {name: whole[name] for name in ("case_0_0000.nii.gz", "case_2_0000.nii.gz")}


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_parts_are_disjoint_and_complete_and_give_the_bytes_of_the_whole(tmp_path, predict, whole, parts):
    done = [predict("shared", **RANDOM, part_id=part, num_parts=parts).done for part in reversed(range(parts))]
    assert sorted(itertools.chain(*done)) == [f"case_{i}" for i in range(4)]
    assert contents(tmp_path / "shared") == whole
    records = {path.name for path in (tmp_path / "shared").glob("predict*.json")}
    assert records == {f"predict_part_{part}_of_{parts}.json" for part in range(parts)}


def test_what_a_part_has_done_is_kept_by_the_whole_and_by_other_parts(tmp_path, predict, whole):
    predict("shared", **RANDOM, part_id=0, num_parts=2)
    with pytest.raises(NndiffError, match=r"made with another seed[\s\S]*predict_part_0_of_2\.json"):
        predict("shared", seed=5, go_on=True, **RANDOM)
    third = predict("shared", go_on=True, **RANDOM, part_id=0, num_parts=3)
    assert (third.done, third.skipped) == (["case_3"], ["case_0"])
    rest = predict("shared", go_on=True, **RANDOM)
    assert (rest.done, rest.skipped) == (["case_1"], ["case_0", "case_2", "case_3"])
    assert contents(tmp_path / "shared") == whole
    assert set(read_json(rest.record)["cases"]) == {f"case_{i}" for i in range(4)}, "it says how each volume was made"


def test_a_prediction_of_all_cases_replaces_the_records_of_parts_too(tmp_path, predict, whole):
    predict("shared", seed=5, **RANDOM, part_id=0, num_parts=2)
    (tmp_path / "shared" / "predict_notes.json").write_text("{}")
    predict("shared", **RANDOM)
    assert contents(tmp_path / "shared") == whole
    assert {path.name for path in (tmp_path / "shared").glob("*.json")} == {"predict.json", "predict_notes.json"}
    assert predict("shared", go_on=True, **RANDOM).done == []


def test_the_warnings_of_a_case_are_told_although_another_failed(tmp_path, predict, capsys, monkeypatch):
    scans(tmp_path / "in", cases=1)
    (tmp_path / "in" / "a_0000.nii.gz").write_text("no image")
    real = pipeline.ready
    monkeypatch.setattr(pipeline, "ready", lambda request: replace(real(request), oddities=["an odd sampler"]))
    with pytest.raises(NndiffError, match="1 of 2 cases failed"):
        predict()
    assert "Warning: all cases: an odd sampler" in capsys.readouterr().err


def test_a_translation_takes_no_number_of_volumes(tmp_path, predict):
    scans(tmp_path / "in", cases=1)
    with pytest.raises(NndiffError, match=r"translates every scan once[\s\S]*found -n 3"):
        predict(volumes=3)


def test_another_seed_or_another_name_is_another_draw(tmp_path, predict, whole):
    predict("other", seed=1, **RANDOM)
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in whole.items())
    (tmp_path / "in" / "case_0_0000.nii.gz").rename(tmp_path / "in" / "renamed_0000.nii.gz")
    predict("names", **RANDOM)
    assert contents(tmp_path / "names")["renamed_0000.nii.gz"] != whole["case_0_0000.nii.gz"]


def test_a_negative_seed_is_a_seed_or_refused_at_once(tmp_path, predict):
    scans(tmp_path / "in", 1)
    try:
        predict(seed=-1)
    except NndiffError as error:
        if "1 of 1 case failed" in str(error):
            raise


def test_every_bad_name_is_reported_once_over_all_parts(tmp_path, predict):
    scans(tmp_path / "in", 2)
    (tmp_path / "in" / "bad.nii.gz").write_text("")
    with pytest.raises(NndiffError, match=r"bad\.nii\.gz has no channel number"):
        predict(part_id=0, num_parts=2)
    assert predict(part_id=1, num_parts=2).failures == []


@pytest.mark.parametrize("part", [-1, 2])
def test_a_part_that_is_none_is_refused(tmp_path, predict, part):
    scans(tmp_path / "in", 1)
    with pytest.raises(NndiffError, match="-part_id counts from 0"):
        predict(part_id=part, num_parts=2)


# ---------------------------------------------------------------- several draws


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (2.5, 3.0, 2.2)], ids=["as trained", "coarser"])
def test_the_output_of_several_draws_is_their_mean(tmp_path, predict, spacing):
    scans(tmp_path / "in", 1, spacing=spacing)
    predict(samples=5, save_samples=True, **RANDOM)
    names = {path.name for path in (tmp_path / "out" / "samples").iterdir()}
    assert names == {f"case_0_sample{k:02d}_0000.nii.gz" for k in range(5)}
    draws = np.stack([array(tmp_path / "out" / "samples" / name) for name in sorted(names)])
    assert draws.std(axis=0).min() > 0
    np.testing.assert_allclose(array(tmp_path / "out" / "case_0_0000.nii.gz"), draws.mean(axis=0), atol=1e-4)


def test_the_uncertainty_is_the_draws_standard_deviation_in_the_targets_units(tmp_path, predict):
    scans(tmp_path / "in", 2)
    predict(samples=4, save_samples=True, save_uncertainty=True, **RANDOM)
    for case in ("case_0", "case_1"):
        draws = [array(path) for path in sorted((tmp_path / "out" / "samples").glob(f"{case}_*"))]
        spread = array(tmp_path / "out" / "uncertainty" / f"{case}_0000.nii.gz")
        np.testing.assert_allclose(spread, np.std(draws, axis=0, ddof=1), rtol=1e-3, atol=1e-5)


def test_the_first_of_several_draws_is_the_one_that_is_drawn_alone(tmp_path, predict):
    scans(tmp_path / "in", 1)
    predict("one", samples=1, **RANDOM)
    predict("three", samples=3, save_samples=True, **RANDOM)
    one, first = tmp_path / "one" / "case_0_0000.nii.gz", tmp_path / "three/samples/case_0_sample00_0000.nii.gz"
    np.testing.assert_array_equal(array(one), array(first))


def test_an_uncertainty_is_never_negative(tmp_path, predict):
    array = make_phantom(0, (30, 32, 36), noise=0.3)
    save_volume(tmp_path / "in" / "case_0_0000.nii.gz", array, spacing=(0.9, 0.9, 0.9))
    predict(samples=3, save_uncertainty=True, **RANDOM)
    image = sitk.ReadImage(str(tmp_path / "out" / "uncertainty" / "case_0_0000.nii.gz"))
    assert sitk.GetArrayFromImage(image).min() >= 0


def test_the_uncertainty_of_ct_is_in_hounsfield_units_and_0_outside_the_crop(tmp_path, predict):
    """It has the target's scale but no offset, and is 0, not -1024, where nothing was estimated."""
    plan = plan_of(sources=("CT",), targets=("CT",))
    model = tmp_path / "ct"
    save_trained(model / "fold_0" / BEST, replace(plan, crop=replace(plan.crop, enabled=True)))
    body = np.full((40, 40, 40), -1000, np.float32)
    body[16:24, 15:25, 14:26] = make_phantom(1, (8, 10, 12), kind="ct")
    save_volume(tmp_path / "in" / "a_0000.mha", body)
    predict(model=model, samples=3, save_samples=True, save_uncertainty=True, **RANDOM)
    spread = sitk.ReadImage(str(tmp_path / "out" / "uncertainty" / "a_0000.mha"))
    assert spread.GetPixelID() == sitk.sitkFloat32
    draws = [array(path) for path in sorted((tmp_path / "out" / "samples").iterdir())]
    expected = np.std(draws, axis=0, ddof=1)
    assert expected.max() > 10
    assert expected[0, 0, 0] == 0
    np.testing.assert_allclose(sitk.GetArrayFromImage(spread), expected, rtol=1e-3, atol=0.01)


def test_an_uncertainty_needs_draws_that_differ(tmp_path, predict):
    scans(tmp_path / "in", 1)
    with pytest.raises(NndiffError, match=r"needs several draws(.|\n)*--samples 8"):
        predict(save_uncertainty=True)
    with pytest.raises(NndiffError, match=r"same volume(.|\n)*--steps 4"):
        predict(samples=4, save_uncertainty=True)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- warnings, record, Python


@pytest.mark.parametrize(
    ("scale", "spacing", "words"),
    [
        (1, (2.0, 2.0, 2.0), ()),
        (100, (2.0, 2.0, 2.0), ("intensities are outside the training range", "in training 1 to 10")),
        (0.01, (2.0, 2.0, 2.0), ("intensities are outside the training range",)),
        (1, (2.0, 2.0, 5.0), ("spacing of 2 x 2 x 5 mm is coarser than that of the training, 2 x 2 x 2 mm",)),
        (100, (5.0, 5.0, 5.0), ("outside the training range", "coarser")),
        (1, (1.0, 1.0, 1.0), ()),
    ],
    ids=str,
)
def test_what_lies_outside_of_training_is_warned_of_and_recorded(tmp_path, predict, scale, spacing, words):
    save_volume(tmp_path / "in" / "case_0_0000.nii.gz", scale * make_phantom(0), spacing=spacing)
    summary = predict()
    lines = summary.warnings["case_0"]
    assert read_json(summary.record)["cases"]["case_0"]["warnings"] == lines
    assert summary.done == ["case_0"]
    assert bool(lines) == bool(words)
    for word in words:
        assert word in " ".join(lines)


@pytest.mark.parametrize(("moved", "warned"), [(-1024, True), (-0.9, False), (0.9, False), (1.1, True)])
def test_a_scan_of_another_kind_is_known_by_where_its_values_begin(tmp_path, predict, moved, warned):
    """A CT has a peak as MR has, but begins far below 0. In the training of this model P99.99 was 1 to 10."""
    scan = np.maximum(make_phantom(0), 0)
    scan[:, :, 0] = 0
    save_volume(tmp_path / "in" / "case_0_0000.nii.gz", np.where(scan == 0, moved, np.maximum(scan, moved)))
    lines = predict().warnings["case_0"]
    assert [line.partition(",")[0] for line in lines] == [f"PET: the intensities begin at {moved:g}"] * warned


def test_a_warning_is_of_the_channel_that_it_names(tmp_path, predict):
    model = model_folder(tmp_path / "two", sources=("PET", "CT"))
    save_trained(model / "fold_0" / BEST, plan_of(sources=("PET", "CT")), peaks=(5.0, 600.0))
    save_volume(tmp_path / "in" / "a_0000.nii.gz", make_phantom(0))
    save_volume(tmp_path / "in" / "a_0001.nii.gz", 10_000 + make_phantom(0, kind="ct"))
    (line,) = predict(model=model).warnings["a"]
    assert line.startswith("CT: the intensities")


def test_the_record_says_how_each_volume_was_made(tmp_path, predict, trained):
    scans(tmp_path / "in", 2)
    summary = predict(seed=3, samples=2, **RANDOM)
    assert summary.record == tmp_path / "out" / "predict.json"
    record = read_json(summary.record)
    path = trained / "fold_0" / BEST
    weights = digest_of(checkpoint.load(path).ema)
    assert record["model"] == [
        {"fold": "0", "checkpoint": f"fold_0/{BEST}", "step": "7", "steps": "10", "weights": weights}
    ]
    assert str(tmp_path) not in summary.record.read_text()
    expected = {
        "start": {"name": "source"},
        "times": encode(replace(checkpoint.load(path).planned.sampler.times, steps=2)),
        "rule": {"name": "first", "eta": 1.0},
        "layers": [{"name": "tiles", "overlap": 0.25}, {"name": "shifts", "places": 1}],
        "guides": [],
        "caches": [{"name": "deep", "interval": 1, "depth": 1, "listed": [], "threshold": 0.0}],
        "samples": 2,
    }
    assert record["sampler"] == expected
    assert (record["dataset"], record["configuration"], record["seed"]) == ("Dataset001_Tiny", "bridge", 3)
    assert record["versions"]["nndiff"] == nndiff.__version__
    assert record["device"].startswith("cpu")
    assert record["failures"] == {}
    assert list(record["cases"]) == ["case_0", "case_1"]
    for name, row in record["cases"].items():
        assert row["outputs"] == [f"{name}_0000.nii.gz"]
        assert (tmp_path / "out" / row["outputs"][0]).exists()
        assert (row["shape"], row["tiles"], row["tile"]) == ([14, 16, 18], 1, [14, 16, 18])
        assert set(row["seconds"]) == {"read", "compute", "write"}


def test_the_record_holds_whole_paths_on_request(tmp_path, predict, trained, monkeypatch):
    scans(tmp_path / "in", 1)
    monkeypatch.setattr(
        sys, "argv", ["nndiff_predict", "-i", str(tmp_path / "in"), f"--output={tmp_path}/out", "-f", "0"]
    )
    plain = read_json(predict("plain").record)
    assert plain["command"] == ["nndiff_predict", "-i", "…/in", "--output=…/out", "-f", "0"]
    whole = read_json(predict("whole", record_paths=True).record)
    assert whole["command"] == sys.argv
    assert whole["model"][0]["checkpoint"] == str(trained / "fold_0" / BEST)


def test_from_python_it_is_quiet_and_returns_what_was_done(tmp_path, predict, capfd):
    scans(tmp_path / "in", 2)
    (tmp_path / "in" / "notes.txt").write_text("")
    summary = predict()
    assert isinstance(summary, Summary)
    assert (summary.done, summary.skipped, summary.failures) == (["case_0", "case_1"], [], [])
    assert capfd.readouterr() == ("", "")


def test_a_case_that_fails_in_the_middle_is_reported_after_the_others_are_done(tmp_path, predict, monkeypatch):
    scans(tmp_path / "in", 4)
    write, translate = outputs._write_channel, draws.translate
    calls = iter(range(9))

    def full(array, undo, path, *rest):
        if "case_1" in path.name:
            raise NndiffError("The disk is full.")
        write(array, undo, path, *rest)

    def burst(*arguments):
        if next(calls) == 2:
            raise ZeroDivisionError("a bug of our own")
        return translate(*arguments)

    monkeypatch.setattr(outputs, "_write_channel", full)
    monkeypatch.setattr(draws, "translate", burst)
    with pytest.raises(NndiffError) as caught:
        predict()
    assert "2 of 4 cases failed" in str(caught.value)
    record = read_json(tmp_path / "out" / "predict.json")
    assert list(record["cases"]) == ["case_0", "case_3"]
    expected = {"case_1": "The disk is full.", "case_2": "ZeroDivisionError: a bug of our own"}
    assert record["failures"] == expected
    for name, message in expected.items():
        assert f"{name}: {message}" in str(caught.value)


def crash_or_read(paths):
    if paths[0].name.startswith("case_1"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return io.read(paths)


def test_a_file_that_crashes_its_decoder_is_the_failure_of_its_case(tmp_path, predict, monkeypatch, whole):
    monkeypatch.setattr(pipeline, "decoder", lambda: Apart(crash_or_read))
    with pytest.raises(NndiffError, match="1 of 4 cases failed") as caught:
        predict("crashed", **RANDOM)
    assert "case_1: A file cannot be decoded.\n  found its process crashed (SIGSEGV)" in str(caught.value)
    others = {name: data for name, data in whole.items() if "case_1" not in name}
    assert {name: data for name, data in contents(tmp_path / "crashed").items() if name in others} == others


def test_a_decoder_has_ten_minutes_and_a_second_for_every_100_kb(tmp_path):
    seen = []

    def decoded(_, patience):
        seen.append(patience)
        raise NndiffError("That is enough.")

    (tmp_path / "series").mkdir()
    for name in ("series/a.dcm", "series/b.dcm", "c.nii"):
        (tmp_path / name).write_bytes(bytes(10**6))
    case = InputCase("case", (tmp_path / "series", tmp_path / "c.nii"), ".nii.gz")
    with pytest.raises(NndiffError, match="enough"):
        reading.Reader(None, False, decoded)(case)
    assert seen == [600 + 30]


# ---------------------------------------------------------------- generation


@pytest.fixture(scope="module", params=["ddpm", "prdit"])
def generating(tmp_path_factory, request):
    root = tmp_path_factory.mktemp("generation")
    return model_folder(root, configuration=request.param, sources=(), targets=("CT",), ending=".mha")


def test_generation_writes_volumes_of_the_plans_shape_and_spacing(tmp_path, predict, generating):
    planned = plan_of("ddpm", (), ("CT",), ".mha").configurations["ddpm"]
    summary = predict(model=generating, source=None, volumes=3, steps=2)
    assert summary.done == [f"volume_{i:03d}" for i in range(3)]
    images = [sitk.ReadImage(str(tmp_path / "out" / f"volume_{i:03d}_0000.mha")) for i in range(3)]
    for image in images:
        assert image.GetSize() == planned.volume_shape[::-1]
        assert image.GetSpacing() == planned.spacing[::-1]
        assert image.GetPixelID() == sitk.sitkInt16
        centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        np.testing.assert_allclose(centre, 0, atol=1e-9)
    arrays = [sitk.GetArrayFromImage(image) for image in images]
    assert not np.array_equal(arrays[0], arrays[1])


def test_a_generated_volume_depends_on_seed_and_number_alone(tmp_path, predict, generating):
    predict("few", model=generating, source=None, volumes=2, steps=2)
    for part in (1, 0):
        predict("many", model=generating, source=None, volumes=4, steps=2, part_id=part, num_parts=2)
    predict("other", model=generating, source=None, volumes=2, steps=2, seed=1)
    few, many, other = (contents(tmp_path / name) for name in ("few", "many", "other"))
    assert len(many) == 4
    assert few == {name: many[name] for name in few}
    assert all(few[name] != other[name] for name in few)
    assert predict("few", model=generating, source=None, volumes=4, steps=2, go_on=True).skipped == [
        "volume_000",
        "volume_001",
    ]
    assert contents(tmp_path / "few") == many, "more are asked for later"


def test_generation_takes_no_input_and_translation_needs_one(tmp_path, predict, generating):
    scans(tmp_path / "in", 1)
    with pytest.raises(NndiffError, match="takes no input"):
        predict(model=generating, steps=2)
    with pytest.raises(NndiffError, match="needs an input folder"):
        predict(source=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"start": "shortcut"}, {"volumes": 0}, {"volumes": -1}], ids=str)
def test_what_cannot_be_generated_is_refused_at_once(tmp_path, predict, generating, options):
    with pytest.raises(NndiffError):
        predict(model=generating, source=None, steps=2, **options)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- memory


def test_behind_a_slow_disk_at_most_three_prepared_volumes_are_alive(tmp_path, predict, monkeypatch):
    """One being read, one computed, one written; the writer waits for a fourth, which must not come."""
    scans(tmp_path / "in", 6)
    alive, most, fourth = weakref.WeakSet(), [0], threading.Event()
    prepare, write = reading.prepare, outputs._write_channel

    def counted(*arguments):
        prepared = prepare(*arguments)
        alive.add(prepared)
        most[0] = max(most[0], len(alive))
        if len(alive) > 3:
            fourth.set()
        return prepared

    def slow(*arguments):
        fourth.wait(0.15)
        write(*arguments)

    monkeypatch.setattr(reading, "prepare", counted)
    monkeypatch.setattr(outputs, "_write_channel", slow)
    assert len(predict().done) == 6
    assert most[0] == 3
    assert len(alive) == 0
