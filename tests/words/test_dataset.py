"""Tests of the structure of a raw dataset: complete cases, and a finding for every problem. No image is opened."""

import json

import pytest

from nndiff.words.dataset import DatasetJson, read
from nndiff.words.errors import NndiffError

WORDS = {"channel_names": {"0": "PET"}, "target_names": {"0": "PET"}, "file_ending": ".nii.gz"}


@pytest.fixture
def build(tmp_path):
    """build(["imagesTr/a_0000.nii.gz", …], key=value, …) → the folder; files are empty, words are dataset.json's."""

    def make(files, **words):
        folder = tmp_path / "Dataset001_Tiny"
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        folder.mkdir(exist_ok=True)
        (folder / "dataset.json").write_text(json.dumps({**WORDS, **words}))
        return folder

    return make


def pair(*cases, ending=".nii.gz"):
    return [f"{side}/{case}_0000{ending}" for case in cases for side in ("imagesTr", "targetsTr")]


def only(dataset):
    (finding,) = dataset.findings
    return finding


# ---------------------------------------------------------------- what is right


def test_whole_cases_sorted_with_their_channels_masks_and_groups(build):
    files = [*pair("b", "a"), "imagesTr/a_0001.nii.gz", "imagesTr/b_0001.nii.gz", "masksTr/a.nii.gz"]
    folder = build(files, channel_names={"0": "PET", "1": "CT"}, groups={"b": "patient7"})
    dataset = read(folder)
    assert dataset.findings == ()
    assert dataset.task == "translation"
    assert dataset.channel_names == ("PET", "CT")
    a, b = dataset.cases
    assert (a.name, a.group, b.name, b.group) == ("a", "a", "b", "patient7")
    assert a.source == (folder / "imagesTr/a_0000.nii.gz", folder / "imagesTr/a_0001.nii.gz")
    assert a.files == (*a.source, folder / "targetsTr/a_0000.nii.gz", folder / "masksTr/a.nii.gz")
    assert b.mask is None


def test_eleven_channels_keep_their_order_by_number(build):
    names = {str(i): f"c{i}" for i in range(11)}
    files = [f"imagesTr/a_{i:04d}.nii.gz" for i in range(11)] + ["targetsTr/a_0000.nii.gz"]
    dataset = read(build(files, channel_names=names))
    assert dataset.channel_names == tuple(f"c{i}" for i in range(11))
    assert [path.name for path in dataset.cases[0].source] == [f"a_{i:04d}.nii.gz" for i in range(11)]


def test_case_names_may_hold_dots_underscores_and_numbers(build):
    names = ["a.b", "a_b_0000", "2024-01-02"]
    assert sorted(names) == [case.name for case in read(build(pair(*names))).cases]


def test_generation_needs_targets_alone(build):
    dataset = read(build(["targetsTr/a_0000.nii.gz"], channel_names={}))
    assert dataset.task == "generation"
    assert dataset.findings == ()
    assert dataset.cases[0].source == ()


def test_an_mhd_and_its_pixels_are_one_file_and_hidden_files_are_none(build):
    files = [*pair("a", ending=".mhd"), "imagesTr/a_0000.raw", "targetsTr/a_0000.zraw"]
    files += ["imagesTr/.DS_Store", "imagesTr/.part-7-b_0000.mhd"]
    dataset = read(build(files, file_ending=".mhd"))
    assert dataset.findings == ()
    assert len(dataset.cases) == 1


def test_files_in_place_relative_and_absolute(build, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    far = tmp_path / "elsewhere" / "x.nii.gz"
    far.touch()
    rows = {"a": {"images": [str(far)], "targets": ["sub/y.nii.gz"], "mask": "sub/m.nii.gz"}}
    folder = build(["sub/y.nii.gz", "sub/m.nii.gz"], dataset=rows)
    (case,) = read(folder).cases
    assert case.files == (far, folder / "sub/y.nii.gz", folder / "sub/m.nii.gz")


# ---------------------------------------------------------------- findings


def test_a_missing_second_channel_names_the_file(build):
    dataset = read(build([*pair("a", "b"), "imagesTr/a_0001.nii.gz"], channel_names={"0": "PET", "1": "CT"}))
    finding = only(dataset)
    assert finding.case == "b"
    assert finding.file.endswith("imagesTr/b_0001.nii.gz")
    assert "_0001 is missing" in finding.what
    assert [case.name for case in dataset.cases] == ["a"]


@pytest.mark.parametrize(("there", "absent"), [("imagesTr", "targetsTr"), ("targetsTr", "imagesTr")])
def test_half_a_case_names_the_side_that_is_missing(build, there, absent):
    finding = only(read(build([*pair("a"), f"{there}/orphan_0000.nii.gz"])))
    assert finding.case == "orphan"
    assert f"no file in {absent}" in finding.what
    assert "orphan_0000.nii.gz" in finding.remedy


def test_a_channel_too_many(build):
    finding = only(read(build([*pair("a", "b"), "targetsTr/a_0001.nii.gz"])))
    assert finding.file.endswith("targetsTr/a_0001.nii.gz")
    assert "is channel _0001, but target_names names 1 channel, numbered from 0" in finding.what


@pytest.mark.parametrize(
    "name", ["a.nii.gz", "a_000.nii.gz", "a_0000.nii", "_0000.nii.gz", "notes.txt", "a_0000.NII.GZ"]
)
def test_a_name_that_is_not_read_says_how_to_name_it(build, name):
    finding = only(read(build([*pair("b"), f"imagesTr/{name}"])))
    assert finding.file.endswith(name)
    assert "CASE_0000.nii.gz" in finding.remedy


def test_a_mask_without_a_case(build):
    finding = only(read(build([*pair("a"), "masksTr/b.nii.gz"])))
    assert (finding.case, finding.what) == ("b", "the mask has no case of the same name.")


def test_a_mask_of_another_kind(build):
    assert "CASE.nii.gz" in only(read(build([*pair("a"), "masksTr/a.png"]))).remedy


def test_generation_with_images_is_refused(build):
    dataset = read(build(pair("a"), channel_names={}))
    assert "has no source channels, but imagesTr contains files" in only(dataset).what
    assert dataset.cases[0].source == ()


def test_num_training_is_only_compared(build):
    finding = only(read(build(pair("a", "b"), numTraining=3)))
    assert finding.severity == "warning"
    assert "is 3, but the number of complete cases is 2" in finding.what
    assert read(build([], numTraining=2)).findings == ()


def test_scans_that_seem_to_be_of_one_patient_are_warned_of_unless_patients_are_named(build):
    finding = only(read(build(pair("anna_s1", "anna_s2", "berta_s1"))))
    assert finding.severity == "warning"
    assert "anna_s1 and anna_s2 seem to be scans of one patient" in finding.what
    named = {"anna_s1": "anna", "anna_s2": "anna", "berta_s1": "berta"}
    assert read(build(pair(*named), groups=named)).findings == ()


def test_groups_that_name_nobody(build):
    finding = only(read(build(pair("a"), groups={"a": "p", "c": "p"})))
    assert (finding.case, finding.severity) == ("c", "warning")


def test_no_case_at_all_says_what_to_put_where(build):
    finding = only(read(build([])))
    assert "no complete case" in finding.what
    assert "imagesTr/CASE_0000.nii.gz and targetsTr/CASE_0000.nii.gz" in finding.remedy
    assert "imagesTr" not in only(read(build([], channel_names={}))).remedy


def test_a_file_in_place_that_does_not_exist(build):
    rows = {case: {"images": [f"{case}.nii.gz"], "targets": ["y.nii.gz"]} for case in ("a", "b")}
    dataset = read(build(["a.nii.gz", "y.nii.gz"], dataset=rows, groups={"a": "p", "b": "p"}))
    finding = only(dataset)
    assert finding.case == "b"
    assert finding.file.endswith("b.nii.gz")
    assert [case.name for case in dataset.cases] == ["a"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"images": ["x.nii.gz"], "targets": []}, '"targets" lists 0 files, but target_names names 1 channel'),
        (
            {"images": ["x.nii.gz", "y.nii.gz"], "targets": ["y.nii.gz"]},
            '"images" lists 2 files, but channel_names names 1 channel',
        ),
    ],
)
def test_in_place_the_numbers_of_files_must_fit_and_nothing_speaks_of_folders(build, row, words):
    whole = {"images": ["x.nii.gz"], "targets": ["y.nii.gz"]}
    finding = only(read(build(["x.nii.gz", "y.nii.gz"], dataset={"a": row, "b": whole})))
    assert words in finding.what
    assert finding.file.endswith("dataset.json")
    assert "Tr" not in finding.what + finding.remedy


@pytest.mark.parametrize("name", ["../outside", "sub/case", "", ".hidden", "a\\b", "-rf", "a\nb", "a\u202eb", "a "])
def test_in_place_a_case_name_never_leaves_the_folder(build, name):
    row = {"images": ["x.nii.gz"], "targets": ["y.nii.gz"]}
    dataset = read(build(["x.nii.gz", "y.nii.gz"], dataset={name: row, "b": row}))
    assert "cannot be the name of a case" in only(dataset).what
    assert only(dataset).case.isprintable()
    assert [case.name for case in dataset.cases] == ["b"]


@pytest.mark.parametrize("name", ["-rf", "a\u202eb", "a ", "\x1b[2Ja"])
def test_in_folders_too_a_case_name_can_be_printed_and_typed(build, name):
    dataset = read(build([*pair("b"), f"imagesTr/{name}_0000.nii.gz", f"targetsTr/{name}_0000.nii.gz"]))
    assert [case.name for case in dataset.cases] == ["b"]
    assert len(dataset.findings) == 2
    for finding in dataset.findings:
        assert "cannot be the name of a case" in finding.what
        assert (finding.case + finding.file).isprintable()


def test_every_wrong_thing_is_reported_at_once(build):
    files = [*pair("a", "b"), "imagesTr/c_0000.nii.gz", "imagesTr/x.txt", "masksTr/q.nii.gz", "targetsTr/a_0003.nii.gz"]
    dataset = read(build(files, numTraining=9, groups={"zz": "p"}))
    assert len(dataset.findings) == 6
    with pytest.raises(NndiffError, match=r"\(and 3 more\)") as raised:
        dataset.demand_sound()
    assert raised.value.remedy


def test_warnings_alone_are_sound(build):
    read(build(pair("a"), numTraining=5)).demand_sound()


# ---------------------------------------------------------------- dataset.json itself


def refusal(folder):
    with pytest.raises(NndiffError) as raised:
        read(folder)
    return raised.value


def test_no_dataset_json(tmp_path):
    error = refusal(tmp_path)
    assert "dataset.json is missing" in error.what
    assert error.remedy


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"chanel_names": {}}, "did you mean 'channel_names'?"),
        ({"labels": {"a": 1}}, 'remove "labels" and write "target_names"'),
        ({"file_ending": "nii.gz"}, ".nii.gz .nii"),
        ({"file_ending": ".png"}, "found .png"),
        ({"target_names": {}}, "at least one target channel is needed"),
        ({"target_names": {"1": "PET"}}, "numbered from 0"),
        ({"channel_names": {"PET": 0}}, "channel_names.PET"),
        ({"channel_names": {"0": "A", "00": "B"}}, "numbered from 0"),
        ({"channel_names": ["PET"]}, "an object"),
        ({"task": "translate"}, "translation or generation"),
        ({"task": "generation"}, "a dataset for generation must have no source channels"),
        ({"task": "translation", "channel_names": {}}, "translation needs at least one source channel"),
        ({"numTraining": "5"}, "a whole number"),
        ({"dataset": {"a": {"image": []}}}, "did you mean 'images'?"),
        ({"groups": {"a": 1}}, "groups.a"),
    ],
)
def test_a_wrong_word_is_refused_with_the_file_and_the_right_one(build, words, said):
    error = refusal(build(pair("a"), **words))
    assert said in str(error)
    assert str(error.where).endswith("dataset.json")
    assert "dataset.json" in error.what


def test_a_missing_word(build):
    folder = build(pair("a"))
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    assert "'target_names' is missing" in refusal(folder).what


def test_a_key_written_twice_is_refused(build):
    folder = build(pair("a"))
    text = json.dumps(WORDS).replace('{"0": "PET"}', '{"0": "PET", "0": "CT"}', 1)
    (folder / "dataset.json").write_text(text)
    assert "'0' appears twice" in str(refusal(folder))


def test_a_full_dataset_json_decodes():
    from nndiff.words.strict_json import decode

    words = {**WORDS, "task": "translation", "numTraining": 1, "name": "x", "licence": "CC0", "release": "1"}
    assert decode(DatasetJson, words).licence == "CC0"
