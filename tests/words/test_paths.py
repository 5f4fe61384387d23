"""Tests of the root folders: from a flag, otherwise from the environment, and only when they are used."""

from pathlib import Path

import pytest

from nndiff.words.errors import NndiffError
from nndiff.words.paths import MANIFEST, MODELS, Paths, demand_model, is_archive


@pytest.fixture
def paths(tmp_path):
    for folder in ("raw/Dataset001_One", "raw/Dataset012_Twelve", "raw/notes", "preprocessed/Dataset007_Seven"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "raw/Dataset003_File").write_text("")
    return Paths(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")


@pytest.mark.parametrize("kind", ["raw", "preprocessed", "results"])
def test_the_flag_wins_over_the_environment_and_neither_names_the_remedy(kind, tmp_path, monkeypatch):
    with pytest.raises(NndiffError, match=f"folder for {kind}( data)? is not set") as raised:
        getattr(Paths(), kind)
    assert f"export nndiff_{kind}=" in raised.value.remedy
    assert f"--{kind}" in raised.value.remedy
    monkeypatch.setenv(f"nndiff_{kind}", str(tmp_path / "environment"))
    assert getattr(Paths(), kind) == tmp_path / "environment"
    assert getattr(Paths(**{f"{kind}_root": tmp_path / "flag"}), kind) == tmp_path / "flag"


def test_an_empty_variable_is_none_and_a_tilde_is_home(monkeypatch):
    monkeypatch.setenv("nndiff_raw", "")
    with pytest.raises(NndiffError):
        _ = Paths().raw
    assert Paths(Path("~/data")).raw == Path.home() / "data"


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("1", "Dataset001_One"),
        ("001", "Dataset001_One"),
        ("Dataset001_One", "Dataset001_One"),
        ("12", "Dataset012_Twelve"),
        ("7", "Dataset007_Seven"),
    ],
)
def test_a_dataset_by_number_or_name_raw_or_preprocessed(paths, wanted, name):
    assert paths.dataset_name(wanted) == name


@pytest.mark.parametrize("wanted", ["2", "3", "Dataset001", "One", "notes", "1000", "", "-1", "²"])
def test_an_unknown_dataset_lists_those_there_are(paths, wanted):
    with pytest.raises(NndiffError, match="There is no dataset") as raised:
        paths.dataset_name(wanted)
    assert "Dataset012_Twelve" in raised.value.found
    assert str(paths.raw) in raised.value.where


def test_a_number_taken_twice_is_refused(paths):
    (paths.raw / "Dataset001_Other").mkdir()
    with pytest.raises(NndiffError, match="Several datasets have the number") as raised:
        paths.dataset_name("1")
    assert "Dataset001_One, Dataset001_Other" in raised.value.found
    assert paths.dataset_name("Dataset001_Other") == "Dataset001_Other"


def test_a_root_that_does_not_exist_holds_no_dataset(tmp_path):
    with pytest.raises(NndiffError, match="There is no dataset '1'") as raised:
        Paths(tmp_path / "nowhere").dataset_name("1")
    assert raised.value.found == "none"


# ---------------------------------------------------------------- models


def installed(results, *names):
    for name in names:
        (results / MODELS / name).mkdir(parents=True)
        (results / MODELS / name / MANIFEST).write_text("{}")


def test_an_installed_model_is_found_by_its_name_alone(tmp_path):
    installed(tmp_path, "low_count", "t1")
    (tmp_path / MODELS / "no_model").mkdir()
    paths = Paths(results_root=tmp_path)
    assert paths.installed_model("t1") == tmp_path / MODELS / "t1"
    for name, remedy in (("low_cont", "did you mean 'low_count'?"), ("no_model", "use one of: low_count, t1")):
        with pytest.raises(NndiffError, match="There is no installed model") as raised:
            paths.installed_model(name)
        assert raised.value.found == "low_count, t1"
        assert raised.value.remedy == remedy
    with pytest.raises(NndiffError, match="There is no installed model") as raised:
        Paths(results_root=tmp_path / "nowhere").installed_model("t1")
    assert (raised.value.found, "nndiff_install_model" in raised.value.remedy) == ("none", True)


def test_a_model_is_a_folder_or_a_zip_file(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    (tmp_path / "a.pt").write_bytes(b"")
    (tmp_path / "folder.zip").mkdir()
    installed(tmp_path, "t1")
    found = {
        path.name: is_archive(path) for path in [*tmp_path.iterdir(), tmp_path / MODELS / "t1", tmp_path / "no.zip"]
    }
    assert found == {"a.zip": True, "a.pt": False, "folder.zip": False, MODELS: False, "t1": True, "no.zip": False}
    demand_model(tmp_path / "a.zip")
    demand_model(tmp_path)
    with pytest.raises(NndiffError, match=r"a file that ends in \.zip; found another file"):
        demand_model(tmp_path / "a.pt")
