"""Tests of hostile archives: whatever is wrong with a file, it is refused in words before anything of it is used."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nndiff import archive
from nndiff.archive import parts as reading
from nndiff.handover.install import install, verify
from nndiff.words.errors import NndiffError
from nndiff.words.paths import MANIFEST
from tests.archive.made import Contents, contents, edited, exported, raw_zip, sealed, zipped


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("sound"))


def refused(path: Path, *words: str) -> str:
    """The file is refused with all words, and an installation of it leaves nothing."""
    with pytest.raises(NndiffError) as caught, archive.opened(path) as found:
        verify(found)
    error = caught.value
    assert str(error.where).startswith(str(path))
    assert error.remedy
    assert "Traceback" not in str(error)
    for word in words:
        assert word in str(error), error
    models = path.parent / "models"
    with pytest.raises(NndiffError):
        install(path, "name", models)
    assert not models.exists() or not list(models.iterdir())
    return str(error)


def test_a_sound_archive_is_read_whole_and_changed_by_nothing(sound: Path) -> None:
    before = sound.read_bytes()
    with archive.opened(sound) as found:
        verify(found)
        whole = contents(sound)
        assert {name: found.read(name, 10**6) for name in found.manifest.parts} | {MANIFEST: found.text} == whole
    assert sound.read_bytes() == before


def test_an_archive_that_was_packed_anew_is_read_too(sound: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "packed.zip", contents(sound), zipfile.ZIP_DEFLATED)
    with archive.opened(path) as found:
        verify(found)


# ---------------------------------------------------------------- the file


NO_ZIP = {"empty": b"", "PK": b"PK", "text": b"not a zip", "no entry": b"PK\x05\x06" + bytes(18), "gzip": b"\x1f\x8b8"}


@pytest.mark.parametrize("data", NO_ZIP.values(), ids=NO_ZIP)
def test_no_zip_file_or_an_empty_one(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    refused(tmp_path / "x.zip")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.99, 0.9999])
def test_a_file_that_is_cut_short(sound: Path, tmp_path: Path, share: float) -> None:
    data = sound.read_bytes()
    (tmp_path / "x.zip").write_bytes(data[: int(share * len(data))])
    refused(tmp_path / "x.zip", "x.zip is not a zip file, or it is damaged")


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(sound: Path, tmp_path: Path) -> None:
    whole, parts, rng, refusals = sound.read_bytes(), contents(sound), np.random.default_rng(0), 0
    path = tmp_path / "x.zip"
    places = [*rng.integers(0, len(whole), 60), *rng.integers(len(whole) - 600, len(whole), 140)]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
        try:
            with archive.opened(path) as found:
                read = {name: found.read(name, 10**6) for name in found.manifest.parts}
        except NndiffError:
            refusals += 1
            continue
        assert read == {name: data for name, data in parts.items() if name != MANIFEST}, f"byte {place}"
    assert refusals > 80


def test_another_programs_zip(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "x.zip", {"data.pkl": b"x", "version": b"3"}), "not a model that nndiff exported")


# ---------------------------------------------------------------- which parts there are


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "fold_0.json", "fold_1.safetensors"])
@pytest.mark.parametrize("listed", [True, False])
def test_a_part_that_is_missing(sound: Path, tmp_path: Path, name: str, listed: bool) -> None:
    parts = contents(sound)
    del parts[name]
    refused(zipped(tmp_path / "x.zip", parts if listed else sealed(parts)), "part", name.partition(".")[0])


@pytest.mark.parametrize(
    "name", ["extra.py", "fold_2.safetensors", "fold_00.json", "model_card.md", ".hidden", "fold_1/a"]
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_part_too_many(sound: Path, tmp_path: Path, name: str, listed: bool) -> None:
    parts = {**contents(sound), name: b"{}"}
    refused(zipped(tmp_path / "x.zip", sealed(parts) if listed else parts), "The archive has a part", name)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "..\\x", "\\x", "C:\\x", "C:x", "//host/share/x", "..", "a/.."]
)
def test_a_path_that_leaves_the_folder(sound: Path, tmp_path: Path, name: str) -> None:
    refused(zipped(tmp_path / "x.zip", sealed({**contents(sound), name: b""})), "leaves it", repr(name)[1:-1])


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\x1b[2J"], ids=ascii)
def test_a_name_with_hidden_characters_is_shown_without_them(sound: Path, tmp_path: Path, name: str) -> None:
    clean = name.translate({ord(char): "#" for char in "\0\n\x1b"})
    zipped(tmp_path / "x.zip", {**contents(sound), clean: b""})
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(clean.encode(), name.encode()))
    assert name not in refused(tmp_path / "x.zip", "hidden character", ascii(name)[1:-1])


@pytest.mark.parametrize(
    ("kind", "word"), [(stat.S_IFLNK, "a link"), (stat.S_IFDIR, "a folder"), (stat.S_IFIFO, "a device")]
)
def test_a_link_or_a_folder_in_place_of_a_part(sound: Path, tmp_path: Path, kind: int, word: str) -> None:
    entries = []
    for name, data in contents(sound).items():
        info = zipfile.ZipInfo(name)
        if name == "MODEL_CARD.md":
            info.external_attr, data = (kind | 0o777) << 16, b"/etc/passwd"
        entries.append((info, data))
    (tmp_path / "x.zip").write_bytes(raw_zip(entries))
    refused(tmp_path / "x.zip", "must be a file", word)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["MODEL_CARD.md", MANIFEST, "fold_0.json"])
def test_two_parts_of_one_name(sound: Path, tmp_path: Path, name: str) -> None:
    entries = [(zipfile.ZipInfo(each), data) for each, data in contents(sound).items()]
    (tmp_path / "x.zip").write_bytes(raw_zip([*entries, (zipfile.ZipInfo(name), b"{}")]))
    refused(tmp_path / "x.zip", "same name", name)


def test_an_encrypted_part_and_an_unknown_packing(sound: Path, tmp_path: Path) -> None:
    data = bytearray(sound.read_bytes())
    central = data.rfind(b"PK\x01\x02")
    data[central + 8] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    refused(tmp_path / "x.zip", "packed in a way", "encrypted")
    zipped(tmp_path / "y.zip", contents(sound), zipfile.ZIP_LZMA)
    refused(tmp_path / "y.zip", "packed in a way", "method 14")


# ---------------------------------------------------------------- what the parts hold


@pytest.mark.parametrize("name", ["MODEL_CARD.md", "fold_0.json", "fold_0.safetensors"])
def test_a_part_that_differs_from_its_checksum(sound: Path, tmp_path: Path, name: str) -> None:
    parts = contents(sound)
    for changed in (parts[name][:-1], parts[name] + b" ", parts[name][:-1] + b"?"):
        path = zipped(tmp_path / "x.zip", {**parts, name: changed})
        refused(path, str(path / name))


Edit = Callable[[Contents], Contents]
EDITS: dict[str, tuple[Edit, str]] = {
    "manifest key": (lambda p: edited(p, MANIFEST, lambda d: d | {"author": "x"}), "Unknown key 'author'"),
    "manifest part key": (
        lambda p: edited(p, MANIFEST, lambda d: d | {"parts": {"a": {"sha256": "0" * 64, "bytes": 1, "mode": 7}}}),
        "Unknown key 'mode'",
    ),
    "manifest hash": (
        lambda p: edited(p, MANIFEST, lambda d: d | {"parts": {"a": {"sha256": "0", "bytes": 1}}}),
        "64 hexadecimal digits",
    ),
    "manifest size": (
        lambda p: edited(p, MANIFEST, lambda d: d | {"parts": {"a": {"sha256": "0" * 64, "bytes": -1}}}),
        "'bytes' is out of range",
    ),
    "manifest list": (lambda p: {**p, MANIFEST: b"[]"}, "not a model that nndiff exported"),
    "manifest text": (lambda p: {**p, MANIFEST: b"\xff{"}, "not valid JSON"),
    "manifest twice": (lambda p: {**p, MANIFEST: p[MANIFEST].replace(b"{", b'{"version": 1, ', 1)}, "appears twice"),
    "manifest deep": (lambda p: {**p, MANIFEST: b"[" * 200_000}, "not valid JSON"),
    "format": (lambda p: sealed(p, format="other"), "not a model that nndiff exported"),
    "version": (lambda p: sealed(p, version=2), "expected version 1; found version 2"),
    "version and key": (lambda p: sealed(p, version=99, new=1), "expected version 1; found version 99"),
    "fold key": (lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"extra": 1})), "Unknown key 'extra'"),
    "plan key": (
        lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"plan": d["plan"] | {"extra": 1}})),
        "Unknown key 'extra'",
    ),
    "tuned key": (
        lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"tuned": d["tuned"] | {"extra": 1}})),
        "Unknown key 'extra'",
    ),
    "no tuning": (lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"tuned": 3})), "wrong type"),
    "other tuning": (
        lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"tuned": d["tuned"] | {"weights": "0"}})),
        "tuned for another checkpoint",
    ),
    "fold name": (lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"fold": "1"})), "another fold"),
    "fold step": (lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"step": -1})), "'step' is out of range"),
    "configuration": (
        lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"configuration": "ddpm"})),
        "no configuration 'ddpm'",
    ),
    "seen": (lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"seen": []})), "one entry per source"),
    "fold list": (lambda p: sealed({**p, "fold_0.json": b"[]"}), "wrong type"),
    "plan": (lambda p: sealed(edited(p, "fold_0.json", lambda d: d | {"plan": None})), "wrong type"),
    "weights": (lambda p: sealed({**p, "fold_0.safetensors": b"\x08" + bytes(7) + b"{}      "}), "do not fit"),
    "no weights": (lambda p: sealed({**p, "fold_0.safetensors": b"PK\x03\x04" * 9}), "no safetensors file"),
    "weights of another": (
        lambda p: sealed({**p, "fold_0.safetensors": p["fold_1.safetensors"]}),
        "tuned for another checkpoint",
    ),
    "weights cut": (lambda p: sealed({**p, "fold_0.safetensors": p["fold_0.safetensors"][:-4]}), "no safetensors file"),
    "weights added": (
        lambda p: sealed({**p, "fold_0.safetensors": p["fold_0.safetensors"] + bytes(10**6)}),
        "larger than it can be",
    ),
    "text too long": (
        lambda p: sealed({**p, "fold_0.json": b" " * (reading.LARGEST_TEXT + 1)}),
        "larger than it can be",
    ),
    "card too long": (lambda p: sealed({**p, "MODEL_CARD.md": b" " * 10**7}), "larger than it can be"),
}


@pytest.mark.parametrize("name", EDITS)
def test_parts_that_are_listed_but_wrong(sound: Path, tmp_path: Path, name: str) -> None:
    change, words = EDITS[name]
    refused(zipped(tmp_path / "x.zip", change(contents(sound))), words)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 10**4),
        ("blocks", 20),
        ("blocks", 0),
        ("kernels", [[0, 0, 0]] * 2),
        ("strides", []),
        ("out_channels", 7),
    ],
    ids=str,
)
def test_a_network_that_the_weights_are_not_of(sound: Path, tmp_path: Path, field: str, value: object) -> None:
    def change(data: dict) -> dict:  # type: ignore[type-arg]
        data["plan"]["configurations"]["bridge"]["network"][field] = value
        return data

    refused(zipped(tmp_path / "x.zip", sealed(edited(contents(sound), "fold_0.json", change))))


@pytest.mark.parametrize("dtype", ["F64", "I32", "BF16"])
def test_weights_in_another_number_format(sound: Path, tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load, save

    of = {"F64": torch.float64, "I32": torch.int32, "BF16": torch.bfloat16}[dtype]
    parts = contents(sound)
    first, *rest = load(parts["fold_0.safetensors"]).items()
    changed = {first[0]: first[1].flatten()[:1].to(of), **dict(rest)}  # no more bytes than a network's can be
    refused(
        zipped(tmp_path / "x.zip", sealed({**parts, "fold_0.safetensors": save(changed)})), "number format", first[0]
    )


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("name", [MANIFEST, "MODEL_CARD.md", "fold_0.json", "fold_0.safetensors"])
@pytest.mark.parametrize("declared", [1 << 24, 100], ids=["true size", "false size"])
def test_a_bomb_is_not_unpacked(sound: Path, tmp_path: Path, monkeypatch, name: str, declared: int) -> None:
    """16 MB of zeros in 16 kB, whether the file says how large they are or not."""
    size = 1 << 24
    parts = sealed({**contents(sound), **({name: bytes(size)} if name != MANIFEST else {})})
    parts[name] = bytes(size)
    path = zipped(tmp_path / "x.zip", parts, zipfile.ZIP_DEFLATED)
    data, place = bytearray(path.read_bytes()), -1
    while declared < size and (place := data.find(struct.pack("<I", size), place + 1)) >= 0:
        data[place : place + 4] = struct.pack("<I", declared)
    path.write_bytes(data)
    assert len(data) < sound.stat().st_size
    read = 0
    counted = reading._counted

    def counting(chunks, most, where):  # type: ignore[no-untyped-def]
        nonlocal read
        for chunk in counted(chunks, most, where):
            read += len(chunk)
            yield chunk

    monkeypatch.setattr(reading, "_counted", counting)
    refused(path)
    assert read < 10 * 2**20
    assert read == 0 or declared < size, "its size alone is reason enough"


def test_no_more_is_read_than_was_packed_whatever_the_directory_says(sound: Path, tmp_path: Path, monkeypatch) -> None:
    """Even if every check of declared sizes were passed, unpacking stops."""
    monkeypatch.setattr(reading, "_judge", lambda info, path: None)
    monkeypatch.setattr(reading, "LARGEST_TEXT", 10**12)
    parts = sealed({**contents(sound), "MODEL_CARD.md": bytes(1 << 26)})
    path = zipped(tmp_path / "x.zip", parts, zipfile.ZIP_DEFLATED)
    unpacked: list[int] = []
    with reading.opened(path) as found, pytest.raises(NndiffError, match="larger than weights and texts can"):
        unpacked.extend(len(chunk) for chunk in found.chunks("MODEL_CARD.md", 10**12))
    assert sum(unpacked) < 1 << 23


def test_the_parts_together_have_a_limit(sound: Path, tmp_path: Path, monkeypatch) -> None:
    path = zipped(tmp_path / "x.zip", contents(sound))
    monkeypatch.setattr(reading, "LARGEST", sound.stat().st_size // 2)
    refused(path, "larger than a model can be")


# ---------------------------------------------------------------- folders


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return install(sound, "one", tmp_path / "models").folder


def refused_folder(path: Path, *words: str) -> None:
    with pytest.raises(NndiffError) as caught, archive.opened(path) as found:
        verify(found)
    for word in words:
        assert word in str(caught.value), caught.value


def test_an_installed_model_is_verified_too(folder: Path) -> None:
    data = (folder / "fold_0.safetensors").read_bytes()
    (folder / "fold_0.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused_folder(folder, "has changed since", "fold_0.safetensors")
    (folder / "fold_0.safetensors").unlink()
    refused_folder(folder, "missing", "fold_0.safetensors")


def test_links_folders_and_other_files_in_an_installed_model(folder: Path, tmp_path: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    refused_folder(folder, "does not list", "notes.txt")
    (folder / "notes.txt").unlink()
    (folder / "more").mkdir()
    refused_folder(folder, "must be a file", "a folder")
    (folder / "more").rmdir()
    os.replace(folder / "fold_0.json", tmp_path / "elsewhere.json")
    (folder / "fold_0.json").symlink_to(tmp_path / "elsewhere.json")
    refused_folder(folder, "must be a file", "a link")


def test_hidden_files_of_a_file_manager_do_no_harm(folder: Path) -> None:
    (folder / ".DS_Store").write_bytes(b"x")
    with archive.opened(folder) as found:
        verify(found)
