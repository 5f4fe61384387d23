import os
from pathlib import Path

import numpy as np
import pytest

from nndiff.imaging import store
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART, read_json, write_json

ARRAYS = {
    "source": np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4),
    "target": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4) - 7,
    "mask": (np.arange(24) % 3 == 0).reshape(2, 3, 4),
}
RECORD = {"box": [[0, 0, 0], [2, 3, 4]], "note": "β"}


def test_round_trip(tmp_path: Path) -> None:
    store.write_case(tmp_path, "case", ARRAYS, RECORD)
    opened = store.open_case(tmp_path, "case")
    assert set(opened) == set(ARRAYS)
    for key, array in ARRAYS.items():
        assert isinstance(opened[key], np.memmap)
        assert opened[key].dtype == array.dtype
        assert np.array_equal(opened[key], array)
        assert not opened[key].flags.writeable
    assert store.read_record(tmp_path, "case") == RECORD
    assert not [name for name in os.listdir(tmp_path) if name.startswith(PART)]


def test_regions_are_contiguous_on_disk_whatever_the_array_was(tmp_path: Path) -> None:
    turned = ARRAYS["source"].T  # Fortran order, which numpy would keep on disk
    store.write_case(tmp_path, "case", {"source": turned}, {})
    opened = store.open_case(tmp_path, "case")["source"]
    assert opened.flags.c_contiguous
    assert np.array_equal(opened, turned)


def test_cases_are_those_with_a_record(tmp_path: Path) -> None:
    for name in ("b", "a", "a_source", "a.1"):
        store.write_case(tmp_path, name, ARRAYS, RECORD)
    np.save(tmp_path / "half_source.npy", ARRAYS["source"])
    (tmp_path / "preparation.json").write_text("{}")
    (tmp_path / f"{PART}1-c.json").write_text("{}")
    assert store.cases(tmp_path) == ["a", "a.1", "a_source", "b"]
    assert store.cases(tmp_path / "nowhere") == []


def test_a_case_cut_off_while_written_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any array, the second time too: there is no record, so nobody takes old and new arrays for one case."""
    store.write_case(tmp_path, "case", ARRAYS, RECORD)
    save, calls = np.save, []

    def fail(stream: object, array: np.ndarray) -> None:
        calls.append(array)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(stream, array)

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        store.write_case(tmp_path, "case", ARRAYS, RECORD)
    assert store.read_record(tmp_path, "case") is None
    assert store.cases(tmp_path) == []
    with pytest.raises(NndiffError, match="not preprocessed"):
        store.open_case(tmp_path, "case")


def test_overwriting_takes_away_what_the_new_case_lacks(tmp_path: Path) -> None:
    store.write_case(tmp_path, "case", ARRAYS, RECORD)
    store.write_case(tmp_path, "case", {"target": ARRAYS["target"]}, {})
    assert sorted(os.listdir(tmp_path)) == ["case.json", "case_target.npy"]
    assert set(store.open_case(tmp_path, "case")) == {"target"}


@pytest.mark.parametrize("length", [0, 60, 150])
def test_array_cut_short(tmp_path: Path, length: int) -> None:
    store.write_case(tmp_path, "case", ARRAYS, RECORD)
    os.truncate(tmp_path / "case_target.npy", length)
    with pytest.raises(NndiffError, match=r"case_target\.npy (is missing or damaged|has changed since)"):
        store.open_case(tmp_path, "case")
    with pytest.raises(NndiffError, match=r"case_target\.npy is missing or damaged"):
        store.open_case(tmp_path, "case", verify=False)


def test_array_missing_or_of_another_case(tmp_path: Path) -> None:
    store.write_case(tmp_path, "case", ARRAYS, RECORD)
    np.save(tmp_path / "case_target.npy", np.zeros((1, 2, 3, 5), np.float32))
    with pytest.raises(NndiffError, match="has changed since it was written"):
        store.open_case(tmp_path, "case")
    with pytest.raises(NndiffError, match="does not match the record of its case"):
        store.open_case(tmp_path, "case", verify=False)
    (tmp_path / "case_target.npy").unlink()
    with pytest.raises(NndiffError, match=r"case_target\.npy is missing"):
        store.open_case(tmp_path, "case")


@pytest.mark.parametrize("file", ["case.json", "case_source.npy", "case_target.npy", "case_mask.npy"])
def test_any_flipped_bit_is_refused_or_changes_nothing(file: str, tmp_path: Path) -> None:
    store.write_case(tmp_path, "case", ARRAYS, RECORD)
    store.link_case(tmp_path, tmp_path / "linked", "case")
    path, places = tmp_path / "linked" / file, []
    whole = path.read_bytes()
    path.unlink()
    for place, byte in enumerate(whole):
        path.write_bytes(whole[:place] + bytes([byte ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            opened, record = store.open_case(path.parent, "case"), store.read_record(path.parent, "case")
        except NndiffError as error:
            places.append(error.where)
            continue
        assert record == RECORD
        assert all(np.array_equal(opened[key], array) for key, array in ARRAYS.items())
    assert set(places) == {path}
    assert len(places) == len(whole) if file.endswith(".npy") else len(places) > 0.8 * len(whole)


def test_a_case_of_a_former_version_has_no_checksums(tmp_path: Path) -> None:
    store.write_case(tmp_path, "case", ARRAYS, RECORD)
    contents = read_json(tmp_path / "case.json")
    del contents["crc32"]
    for described in contents["arrays"].values():
        del described["crc32"]
    write_json(tmp_path / "case.json", contents)
    assert np.array_equal(store.open_case(tmp_path, "case")["mask"], ARRAYS["mask"])
    assert store.read_record(tmp_path, "case") == RECORD


def test_foreign_record(tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text('{"a": 1}')
    with pytest.raises(NndiffError, match="does not describe a preprocessed case"):
        store.read_record(tmp_path, "case")


def test_no_case(tmp_path: Path) -> None:
    assert store.read_record(tmp_path, "case") is None
    with pytest.raises(NndiffError, match="case is not preprocessed"):
        store.link_case(tmp_path, tmp_path / "other", "case")


def test_linked_case_shares_its_bytes_until_one_is_rewritten(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    store.write_case(one, "case", ARRAYS, RECORD)
    store.write_case(two, "case", {"source": ARRAYS["source"] + 1}, {})
    store.link_case(one, two, "case")
    store.link_case(one, two, "case")
    assert (one / "case_source.npy").samefile(two / "case_source.npy")
    assert store.read_record(two, "case") == RECORD
    store.write_case(two, "case", {"source": ARRAYS["source"] + 1}, {})
    assert np.array_equal(store.open_case(one, "case")["source"], ARRAYS["source"])
    assert sorted(os.listdir(one)) == sorted(
        f"case{end}" for end in (".json", "_mask.npy", "_source.npy", "_target.npy")
    )


def test_link_copies_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    store.write_case(tmp_path / "one", "case", ARRAYS, RECORD)
    monkeypatch.setattr(os, "link", refuse)
    store.link_case(tmp_path / "one", tmp_path / "two", "case")
    assert not (tmp_path / "one" / "case_source.npy").samefile(tmp_path / "two" / "case_source.npy")
    assert np.array_equal(store.open_case(tmp_path / "two", "case")["source"], ARRAYS["source"])


def test_link_of_a_case_that_lost_an_array(tmp_path: Path) -> None:
    store.write_case(tmp_path / "one", "case", ARRAYS, RECORD)
    (tmp_path / "one" / "case_mask.npy").unlink()
    with pytest.raises(NndiffError, match=r"case_mask\.npy is missing"):
        store.link_case(tmp_path / "one", tmp_path / "two", "case")
    assert store.cases(tmp_path / "two") == []


def test_removed_case(tmp_path: Path) -> None:
    store.write_case(tmp_path, "case", ARRAYS, RECORD)
    store.write_case(tmp_path, "case_2", ARRAYS, RECORD)
    store.remove_case(tmp_path, "case")
    store.remove_case(tmp_path, "case")
    assert store.cases(tmp_path) == ["case_2"]
    assert len(os.listdir(tmp_path)) == 4
