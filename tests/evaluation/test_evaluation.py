"""Tests of the evaluation stage: which files are compared, where, in which range, and how other cases are reported."""

from __future__ import annotations

import csv
import json
import math
import platform
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from nndiff import evaluation
from nndiff.cli import evaluate as command
from nndiff.evaluation import evaluate
from nndiff.evaluation.scores import Row
from nndiff.evaluation.summary import summarised
from nndiff.imaging import io
from nndiff.metrics import image
from nndiff.metrics.pet import best_gaussian, gaussian
from nndiff.resources import workers
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART
from nndiff.words.kind import PET
from nndiff.words.version import versions

SHAPE = (14, 16, 18)
SPACING = (2.0, 2.0, 2.0)
METHODS = ["prediction", "input", "best Gaussian"]


pytestmark = pytest.mark.usefixtures("small_scales")


@pytest.fixture
def folders(tmp_path, save, phantom):
    """build(cases, …) → a folder with truth, prediction and input; predictions err by a twentieth, inputs by 0.4."""

    def build(cases=2, channels=1, kind="pet", ending=".nii.gz"):
        for case in range(cases):
            for channel in range(channels):
                rng = np.random.default_rng(10 * case + channel)
                truth = phantom(case, kind=kind) * (1 + channel)
                scale = (100 if kind == "ct" else 1) * (1 + case)
                for side, error in (("truth", 0), ("prediction", 0.05), ("input", 0.4)):
                    noise = error * scale * rng.normal(size=SHAPE)
                    save(tmp_path / side / f"case_{case}_{channel:04d}{ending}", truth + noise, SPACING)
        return tmp_path

    return build


def load(path):
    return io.read([path]).array[0]


def run(folder, **options):
    """In this process, so that a coverage or a patch counts."""
    return evaluate(folder / "truth", folder / "prediction", folder / "out", workers=0, **options)


def score(found, name, method="prediction", case="case_0", channel=0):
    (row,) = [row for row in found.rows if (row.case, row.channel, row.method) == (case, channel, method)]
    return row.scores[name]


def table(folder):
    with open(folder / "out" / "metrics.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def summary(folder):
    return json.loads((folder / "out" / "summary.json").read_text())


def reason(found):
    (failure,) = found.failures
    return failure.case, failure.message


# ---------------------------------------------------------------- the figures


def test_figures_are_skimages_and_numpys(folders) -> None:
    folder = folders(1)
    truth, estimate = (load(folder / side / "case_0_0000.nii.gz").astype(float) for side in ("truth", "prediction"))
    low, high = min(0.0, truth.min()), truth.max()
    found = run(folder)
    clipped = np.clip(estimate, low, high)
    expected = {
        "PSNR": peak_signal_noise_ratio(truth, clipped, data_range=high - low),
        "SSIM": structural_similarity(truth - low, clipped - low, win_size=7, data_range=high - low),
        "MAE": np.abs(estimate - truth).mean(),
        "NRMSE": np.sqrt(np.square(estimate - truth).mean() / np.square(truth).mean()),
    }
    for name, value in expected.items():
        assert score(found, name) == pytest.approx(value, rel=1e-6), name
    assert found.rows[0].bounds == (low, high)
    assert summary(folder)["settings"]["versions"] == versions()


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("PET", "CT", "PET (SUV), the truth CT (HU)"),
        ("T1", "CT", "MR (arbitrary units), the truth CT (HU)"),
        ("T1", "FLAIR", "T1 and FLAIR have no common scale"),
        ("T1", "t1", ""),
        ("CBCT", "CT", ""),
        ("low-count PET", "PET", ""),
    ],
)
def test_the_input_is_compared_only_in_the_truths_units(folders, source: str, target: str, words: str) -> None:
    folder = folders(2)
    described = {"channel_names": {"0": "other", "1": source}, "target_names": {"0": target}}
    (folder / "dataset.json").write_text(json.dumps(described))
    for case in range(2):
        (folder / f"input/case_{case}_0000.nii.gz").rename(folder / f"input/case_{case}_0001.nii.gz")
    found = run(folder, input_folder=folder / "input", input_channel=1)
    assert not found.failures
    assert {row.method for row in found.rows} == set(METHODS[:1] if words else METHODS)
    said = found.summary["settings"]["input_not_compared"]
    assert set(said) == ({"0"} if words else set())
    assert words in command.table(found)
    assert ("not compared" in command.table(found)) is bool(words)


@pytest.mark.parametrize("name", ["predict.json", "predict_part_1_of_3.json"])
def test_where_no_dataset_describes_the_truth_the_record_of_the_predictions_does(folders, name: str) -> None:
    folder = folders(1)
    described = {"channel_names": {"0": "T1"}, "target_names": {"0": "FLAIR"}}
    (folder / "prediction" / name).write_text(json.dumps(described))
    found = run(folder, input_folder=folder / "input")
    assert {row.kind.name for row in found.rows} == {"mr"}
    assert {row.method for row in found.rows} == {METHODS[0]}
    assert "T1 and FLAIR have no common scale" in command.table(found)
    (folder / "dataset.json").write_text(json.dumps({"channel_names": {"0": "PET"}, "target_names": {"0": "PET"}}))
    found = run(folder, input_folder=folder / "input")
    assert {row.kind.name for row in found.rows} == {"pet"}, "the dataset's own description comes first"
    assert {row.method for row in found.rows} == set(METHODS)


def test_without_a_description_the_values_tell_hounsfield_units_from_others(folders, save) -> None:
    folder = folders(1, kind="ct")
    assert {row.method for row in run(folder, input_folder=folder / "input").rows} == set(METHODS)
    save(folder / "input/case_0_0000.nii.gz", np.abs(load(folder / "input/case_0_0000.nii.gz")), SPACING)
    found = run(folder, input_folder=folder / "input")
    assert {row.method for row in found.rows} == {"prediction"}
    assert "HU" in found.summary["settings"]["input_not_compared"]["0"]


def test_a_grid_is_sought_with_the_puzzle_that_predict_noted(folders, save) -> None:
    folder = folders(1)
    truth = load(folder / "truth/case_0_0000.nii.gz")
    stripes = np.zeros(SHAPE, np.float32)
    stripes[::3] = 0.5
    save(folder / "prediction/case_0_0000.nii.gz", truth + stripes)
    assert run(folder).summary["settings"]["puzzle_factor"] == [2, 2, 2]
    (folder / "prediction/predict_part_1.json").write_text('{"puzzle_factor": [3, 1, 1]}')
    found = run(folder)
    assert found.summary["settings"]["puzzle_factor"] == [3, 1, 1]
    residual = stripes.astype(float)
    phases = [residual[phase::3].mean() for phase in range(3)]
    assert score(found, "grid_bias") == pytest.approx(np.std(phases) / np.sqrt(np.square(residual).mean()), rel=1e-4)
    assert score(run(folder, puzzle_factor=(1, 1, 2)), "grid_bias") == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("factor", ["[2, 2]", "[0, 1, 1]", '"222"', "[2.0, 2, 2]", "7"])
def test_a_puzzle_that_is_none_is_refused(folders, factor) -> None:
    folder = folders(1)
    (folder / "prediction/predict.json").write_text(f'{{"puzzle_factor": {factor}}}')
    with pytest.raises(NndiffError, match="puzzle factor is not valid"):
        run(folder)


def test_outside_the_mask_nothing_counts(folders, save) -> None:
    folder = folders(1)
    mask = np.zeros(SHAPE, np.float32)
    mask[3:12, 3:14, 3:15] = 1
    save(folder / "masks/case_0.nii.gz", mask, dtype=np.uint8)
    options = {"mask_folder": folder / "masks", "input_folder": folder / "input"}
    before, unmasked = run(folder, **options), run(folder, input_folder=folder / "input")
    path = folder / "prediction/case_0_0000.nii.gz"
    save(path, np.where(mask > 0, load(path), 77))
    after = run(folder, **options)
    for name in before.rows[0].scores:
        assert score(after, name) == pytest.approx(score(before, name), rel=1e-5, abs=1e-9), name
        assert score(unmasked, name) != pytest.approx(score(before, name), rel=1e-5), name
    truth, estimate = load(folder / "truth/case_0_0000.nii.gz"), load(path)
    assert score(after, "MAE") == pytest.approx(np.abs(estimate - truth)[mask > 0].mean(), rel=1e-5)
    source = load(folder / "input/case_0_0000.nii.gz")
    _, fwhm = best_gaussian(source, truth, SPACING, after.rows[0].bounds, mask > 0)
    assert score(after, "FWHM_mm", "best Gaussian") == pytest.approx(fwhm)
    assert score(unmasked, "FWHM_mm", "best Gaussian") != pytest.approx(fwhm, rel=0.01)


def test_the_input_and_the_best_gaussian_stand_beside_it(folders) -> None:
    folder = folders(2)
    found = run(folder, input_folder=folder / "input")
    assert [row.method for row in found.rows] == METHODS * 2
    for case in ("case_0", "case_1"):
        psnr = {method: score(found, "PSNR", method, case) for method in METHODS}
        assert psnr["input"] < psnr["best Gaussian"] < psnr["prediction"]
        fwhm = score(found, "FWHM_mm", "best Gaussian", case)
        assert 1 < fwhm < 12
        source, truth = (load(folder / side / f"{case}_0000.nii.gz") for side in ("input", "truth"))
        bounds = (min(0.0, float(truth.min())), float(truth.max()))
        assert psnr["best Gaussian"] == pytest.approx(image.psnr(gaussian(source, fwhm, SPACING), truth, bounds))
        assert all("FWHM_mm" not in row.scores for row in found.rows if row.method != "best Gaussian")


def test_the_input_channel_is_chosen(folders) -> None:
    folder = folders(1, channels=2)
    for side in ("truth", "prediction"):
        (folder / side / "case_0_0001.nii.gz").unlink()
    first, second = (run(folder, input_folder=folder / "input", input_channel=channel) for channel in (0, 1))
    assert score(first, "MAE", "input") < score(second, "MAE", "input")
    with pytest.raises(NndiffError, match="no input channel 5"):
        run(folder, input_folder=folder / "input", input_channel=5)


def test_regions_label_by_label_and_averaged(folders, save) -> None:
    folder = folders(1)
    truth = load(folder / "truth/case_0_0000.nii.gz") + 1
    labels = np.zeros(SHAPE, np.float32)
    labels[5:7, 5:9, 5:9], labels[8:10, 5:9, 5:9] = 1, 7
    estimate = truth * np.where(labels == 1, 1.5, np.where(labels == 7, 0.9, 3))
    save(folder / "truth/case_0_0000.nii.gz", truth)
    save(folder / "prediction/case_0_0000.nii.gz", estimate)
    save(folder / "regions/case_0.nii.gz", labels, dtype=np.uint8)
    found = run(folder, region_folder=folder / "regions")
    assert score(found, "SUVmean_bias") == pytest.approx(0.2, abs=1e-5)
    assert score(found, "SUVmax_bias") == pytest.approx(0.2, abs=1e-5)
    rows = summary(folder)["regions"]
    assert [(row["case"], row["channel"], row["method"], row["label"], row["voxels"]) for row in rows] == [
        ("case_0", 0, "prediction", 1, 32),
        ("case_0", 0, "prediction", 7, 32),
    ]
    assert [row["mean_bias"] for row in rows] == pytest.approx([0.5, -0.1], abs=1e-5)

    mask = labels == 7
    mask[0, 0, 0] = True
    save(folder / "masks/case_0.nii.gz", mask, dtype=np.uint8)
    masked = run(folder, region_folder=folder / "regions", mask_folder=folder / "masks")
    assert [row["label"] for row in masked.summary["regions"]] == [7]
    as_ct = run(folder, region_folder=folder / "regions", kinds="ct")
    assert as_ct.summary["regions"] == []


def test_samples_and_uncertainty_are_measured_where_they_are(folders, save) -> None:
    folder = folders(2)
    truth, estimate = (load(folder / side / "case_0_0000.nii.gz").astype(float) for side in ("truth", "prediction"))
    samples = [estimate + shift for shift in (-0.3, 0.1, 0.2)]
    for number, sample in enumerate(samples):
        save(folder / f"prediction/samples/case_0_sample{number}_0000.nii.gz", sample)
    deviation = np.abs(np.random.default_rng(0).normal(size=SHAPE)) * np.abs(estimate - truth)
    save(folder / "prediction/uncertainty/case_0_0000.nii.gz", deviation)
    found = run(folder, input_folder=folder / "input")
    expected = np.mean([np.abs(s - truth).mean() for s in samples]) - (0.4 + 0.5 + 0.1) / 6
    assert score(found, "CRPS") == pytest.approx(expected, rel=1e-4)
    rank = stats.spearmanr(deviation.ravel(), np.abs(estimate - truth).ravel()).statistic
    assert score(found, "uncertainty_correlation") == pytest.approx(rank, abs=1e-4)
    having = [(row.case, row.method) for row in found.rows if "CRPS" in row.scores]
    assert having == [("case_0", "prediction")]
    assert found.summary["metrics"]["prediction"]["0"]["CRPS"]["cases"] == 1

    (folder / "prediction/samples/case_0_sample1_0000.nii.gz").unlink()
    name, why = reason(run(folder))
    assert (name, "case_0_sample1" in why) == ("case_0", True)


# ---------------------------------------------------------------- kinds and ranges


@pytest.mark.parametrize(("edition", "high"), [("2025", 3071.0), ("2023", 3000.0)])
def test_ct_is_measured_in_synthrads_range(folders, edition, high) -> None:
    folder = folders(1, kind="ct")
    found = run(folder, edition=edition)
    assert (found.rows[0].kind.name, found.rows[0].bounds) == ("ct", (-1024.0, high))
    truth, estimate = (load(folder / side / "case_0_0000.nii.gz") for side in ("truth", "prediction"))
    expected = 10 * math.log10((high + 1024) ** 2 / np.square((estimate - truth).astype(float)).mean())
    assert score(found, "PSNR") == pytest.approx(expected, rel=1e-4)
    settings = found.summary["settings"]
    assert settings["edition"] == edition
    assert f"SynthRAD {edition}" in settings["bounds"]["ct"]
    with pytest.raises(NndiffError, match="no range of this SynthRAD edition"):
        run(folder, edition="2024")


def test_the_dataset_says_what_the_truth_is(folders) -> None:
    folder = folders(1, channels=2)
    (folder / "dataset.json").write_text(json.dumps({"target_names": {"0": "CT", "1": "T2"}}))
    assert [row.kind.name for row in run(folder).rows] == ["ct", "mr"]
    assert [row.kind.name for row in run(folder, kinds="pet").rows] == ["pet", "pet"]
    assert [row.kind.name for row in run(folder, kinds=("mr", "auto")).rows] == ["mr", "pet"]
    with pytest.raises(NndiffError, match="did you mean 'pet'"):
        run(folder, kinds="pett")


def test_values_say_it_where_no_dataset_does(folders) -> None:
    assert run(folders(1)).summary["settings"]["kinds"] == {"0": ["pet"]}
    assert run(folders(1, kind="ct")).summary["settings"]["kinds"] == {"0": ["ct"]}


def test_each_volume_has_its_own_range(folders, save) -> None:
    folder = folders(2)
    truth = load(folder / "truth/case_1_0000.nii.gz")
    save(folder / "truth/case_1_0000.nii.gz", truth - 0.25)
    bounds = [row.bounds for row in run(folder).rows]
    assert bounds[0][0] == 0 < bounds[0][1]
    assert bounds[1] == pytest.approx((float(truth.min()) - 0.25, float(truth.max()) - 0.25))


# ---------------------------------------------------------------- what is written


def test_the_table_has_a_row_a_case_channel_and_method(folders) -> None:
    folder = folders(2, channels=2, ending=".mha")
    found = run(folder, input_folder=folder / "input")
    rows = table(folder)
    assert [(row["case"], row["channel"], row["method"]) for row in rows] == [
        (f"case_{case}", str(channel), method) for case in (0, 1) for channel in (0, 1) for method in METHODS
    ]
    for written, row in zip(rows, found.rows, strict=True):
        assert float(written["PSNR"]) == pytest.approx(row.scores["PSNR"], rel=1e-5)
        assert (written["FWHM_mm"] == "") == (row.method != "best Gaussian")
        assert written["CRPS"] == written["SUVmean_bias"] == ""
        assert (written["kind"], float(written["range_low"])) == ("pet", 0.0)


def test_the_order_in_which_cases_finish_does_not_show(folders, monkeypatch) -> None:
    folder = folders(3)
    expected = [run(folder).rows, table(folder)]
    monkeypatch.setattr(evaluation, "run", lambda *words: reversed(list(workers.run(*words))))
    assert [run(folder).rows, table(folder)] == expected


def test_the_summary_is_of_the_rows(folders) -> None:
    folder = folders(3)
    found = run(folder)
    assert summary(folder) == found.summary
    figure = found.summary["metrics"]["prediction"]["0"]["MAE"]
    values = [row.scores["MAE"] for row in found.rows]
    assert figure["mean"] == pytest.approx(np.mean(values))
    assert figure["std"] == pytest.approx(np.std(values, ddof=1))
    assert figure["median"] == pytest.approx(np.median(values))
    assert (figure["worst"], figure["worst_case"], figure["cases"]) == (max(values), "case_2", 3)
    assert (found.summary["cases"], found.summary["failed"]) == (3, {})
    assert found.summary["settings"]["folders"]["truth"] == str(folder / "truth")


@pytest.mark.parametrize(
    ("name", "values", "worst"),
    [
        ("PSNR", (30, 20, 40), 1),
        ("SSIM", (0.5, 0.9, 0.8), 0),
        ("MAE", (1, 2, 3), 2),
        ("HF", (1.5, 0.5, 1.9), 1),
        ("SUVmean_bias", (0.1, -0.2, 0.15), 1),
        ("uncertainty_correlation", (0.3, 0.4, -0.1), 2),
        ("grid_excess", (0.5, -0.9, 0.1), 0),
        ("PSNR", (math.inf, 50, math.nan), 1),
    ],
)
def test_the_worst_case_is_the_worst(name, values, worst) -> None:
    rows = [Row(str(i), 0, "prediction", PET, (0, 1), {name: value}) for i, value in enumerate(values)]
    figure = summarised(rows, [], {})["metrics"]["prediction"]["0"][name]
    assert (figure["worst"], figure["worst_case"]) == (values[worst], str(worst))
    assert figure["cases"] == sum(not math.isnan(value) for value in values)


def test_a_perfect_prediction_is_infinite_in_the_table_and_null_in_json(folders) -> None:
    folder = folders(1)
    for path in (folder / "truth").iterdir():
        (folder / "prediction" / path.name).write_bytes(path.read_bytes())
    found = run(folder)
    assert (table(folder)[0]["PSNR"], table(folder)[0]["MAE"]) == ("inf", "0")
    assert summary(folder)["metrics"]["prediction"]["0"]["PSNR"]["mean"] is None
    assert "inf" in command.table(found)


# ---------------------------------------------------------------- what cannot be compared


def test_cases_without_a_partner_are_named_and_the_others_go_on(folders) -> None:
    folder = folders(4)
    (folder / "prediction/case_0_0000.nii.gz").unlink()
    (folder / "truth/case_3_0000.nii.gz").unlink()
    (folder / "prediction/nonsense.nii.gz").touch()
    found = run(folder)
    assert {row.case for row in found.rows} == {"case_1", "case_2"}
    failed = summary(folder)["failed"]
    assert list(failed) == ["case_0", "case_3", "nonsense.nii.gz"]
    assert "truth has no matching prediction" in failed["case_0"]
    assert "prediction has no matching truth" in failed["case_3"]
    with pytest.raises(NndiffError, match="3 of 5 cases failed"):
        found.demand_success()


def test_a_missing_channel_is_named(folders) -> None:
    folder = folders(2, channels=2)
    (folder / "prediction/case_1_0001.nii.gz").unlink()
    case, why = reason(run(folder))
    assert (case, "case_1_0001" in why) == ("case_1", True)
    (folder / "truth/case_1_0001.nii.gz").unlink()
    assert run(folder).failures == ()
    for side in ("truth", "prediction"):
        (folder / side / "case_1_0000.nii.gz").rename(folder / side / "case_1_0002.nii.gz")
    assert "numbered from 0000" in reason(run(folder))[1]


def test_what_a_killed_run_left_behind_is_swept(folders) -> None:
    folder = folders(1)
    left = folder / "out" / f"{PART}{platform.node()}_{2**22 + 1}+metrics.csv"  # above the largest process number
    left.parent.mkdir()
    left.touch()
    run(folder)
    assert sorted(path.name for path in left.parent.iterdir()) == ["metrics.csv", "summary.json"]


@pytest.mark.parametrize("side", ["prediction", "input", "masks", "regions", "samples", "uncertainty", "truth"])
def test_another_grid_is_an_error_of_that_case(folders, save, side) -> None:
    folder = folders(2, channels=2 if side == "truth" else 1)
    ones, other = np.ones(SHAPE, np.float32), np.ones((14, 16, 17), np.float32)
    for case in range(2):
        for name in ("masks", "regions"):
            save(folder / name / f"case_{case}.nii.gz", ones)
    for name in ("uncertainty/case_0", "samples/case_0_sample0", "samples/case_0_sample1"):
        save(folder / "prediction" / f"{name}_0000.nii.gz", ones)
    moved = {
        "truth": "truth/case_0_0001",
        "masks": "masks/case_0",
        "regions": "regions/case_0",
        "samples": "prediction/samples/case_0_sample1_0000",
        "uncertainty": "prediction/uncertainty/case_0_0000",
    }.get(side, f"{side}/case_0_0000")
    options = {f"{name}_folder": folder / f"{name}{s}" for name, s in (("mask", "s"), ("region", "s"), ("input", ""))}
    assert run(folder, **options).failures == ()
    save(folder / f"{moved}.nii.gz", other)
    found = run(folder, **options)
    case, why = reason(found)
    assert case == "case_0"
    assert "differs from that of the truth" in why
    assert "shape (14, 16, 17) instead of (14, 16, 18)" in why
    assert {row.case for row in found.rows} == {"case_1"}


@pytest.mark.parametrize("side", ["truth", "prediction", "input"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_no_number_is_an_error_of_that_case(folders, save, side, value) -> None:
    folder = folders(2, ending=".mha")  # ITK's NIfTI reader makes no difference between the two
    path = folder / side / "case_1_0000.mha"
    array = load(path)
    array[3, 4, 5] = value
    save(path, array)
    case, why = reason(run(folder, input_folder=folder / "input"))
    assert (case, "NaN or infinite" in why, "1 of 4032" in why) == ("case_1", True, True)


def test_masks_and_labels_must_make_sense(folders, save) -> None:
    folder = folders(3)
    ones = np.ones(SHAPE, np.float32)
    for side, spoilt in (("masks", 0 * ones), ("regions", 1.5 * ones)):
        save(folder / side / "case_0.nii.gz", ones)
        save(folder / side / "case_1.nii.gz", spoilt)
    masked, labelled = run(folder, mask_folder=folder / "masks"), run(folder, region_folder=folder / "regions")
    words = {failure.case: failure.message for failure in masked.failures}
    assert "mask is empty" in words["case_1"]
    assert "folder of masks has no file for this case" in words["case_2"]
    words = {failure.case: failure.message for failure in labelled.failures}
    assert "A label map must contain whole numbers" in words["case_1"]
    assert "all 0 where there is no region" in words["case_2"]


def test_a_truth_without_contrast_has_no_range(folders, save) -> None:
    folder = folders(2)
    save(folder / "truth/case_0_0000.nii.gz", np.zeros(SHAPE, np.float32))
    case, why = reason(run(folder))
    assert (case, "All voxels of the truth are equal" in why) == ("case_0", True)


def test_folders_that_hold_nothing_or_two_of_one_are_refused(folders, save) -> None:
    folder = folders(1)
    (folder / "empty").mkdir()
    with pytest.raises(NndiffError, match="no volume to evaluate"):
        evaluate(folder / "empty", folder / "empty", folder / "out")
    with pytest.raises(NndiffError, match="folder of the input does not exist"):
        run(folder, input_folder=folder / "nowhere")
    with pytest.raises(NndiffError, match="1 of 1 case failed\\."):
        evaluate(folder / "truth", folder / "empty", folder / "out")
    save(folder / "truth/case_0_0000.mha", np.ones(SHAPE, np.float32))
    with pytest.raises(NndiffError, match="two files named case_0_0000"):
        run(folder)
    assert not (folder / "out" / "metrics.csv").exists()


# ---------------------------------------------------------------- the command


def test_the_command_end_to_end(folders, run_cli) -> None:
    folder = folders(2)
    prediction = folder / "prediction"
    words = [folder / "truth", prediction, "-i", folder / "input", "-o", prediction, "--puzzle_factor", 2, 1, 1]
    code, out, _ = run_cli(command.main, *words, "-np", 1)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == (
        "Channel 0, pet, 2 cases, range min(0, the truth's minimum) to the truth's maximum, per volume and channel"
    )
    assert lines[1].split()[:5] == ["PSNR", "SSIM", "MS_SSIM", "MAE", "HF"]
    assert [line[2:15].strip() for line in lines[2:5]] == METHODS
    figure = json.loads((prediction / "summary.json").read_text())["metrics"]["prediction"]["0"]["PSNR"]
    assert f"{figure['mean']:.4g} ± {figure['std']:.4g}" in lines[2]
    assert lines[2].endswith(f"{figure['worst']:.4g} ({figure['worst_case']})")
    assert "mm wide, a width chosen with knowledge of the truth" in lines[5]
    with open(prediction / "metrics.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 6
    again = run_cli(command.main, *words, "-np", 0)
    assert (again.code, len(list(Path(prediction).glob(".part*")))) == (0, 0)


def test_a_failed_case_shows_after_the_table_and_in_the_exit_code(folders, run_cli) -> None:
    folder = folders(2)
    (folder / "truth/case_1_0000.nii.gz").unlink()
    code, out, err = run_cli(
        command.main, folder / "truth", folder / "prediction", "-o", folder / "out", "-np", 0, "--kind", "mr"
    )
    assert code == 1
    assert "Channel 0, mr, 1 case" in out
    assert "1 of 2 cases failed" in err
    assert "case_1: The prediction has no matching truth" in err


def test_what_a_person_types_wrong_is_refused(folders, run_cli) -> None:
    folder = folders(1)
    words = [folder / "truth", folder / "prediction"]
    assert run_cli(command.main, *words).code == 2
    assert "--output" in run_cli(command.main, *words).err
    assert run_cli(command.main, *words, "-o", folder / "out", "--edition", "2024").code == 2
    code, _, err = run_cli(command.main, folder / "nowhere", folder / "prediction", "-o", folder / "out")
    assert (code, "folder of the truth does not exist" in err) == (1, True)


def test_blur_may_win_psnr_but_not_the_rest(folders, save) -> None:
    """Why the high-frequency power stands beside it."""
    folder = folders(1)
    truth = load(folder / "truth/case_0_0000.nii.gz")
    grain = 0.5 * np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    save(folder / "truth/case_0_0000.nii.gz", truth + grain)
    save(folder / "prediction/case_0_0000.nii.gz", ndimage.gaussian_filter(truth, 0.5))
    save(folder / "input/case_0_0000.nii.gz", truth + np.roll(grain, 3, axis=2))
    found = run(folder, input_folder=folder / "input")
    assert score(found, "PSNR") > score(found, "PSNR", "input")
    assert score(found, "HF") < 0.2
    assert score(found, "HF", "input") == pytest.approx(1, abs=0.3)
