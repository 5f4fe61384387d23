"""The parts of an archive: bytes that are handed out only if the manifest lists them and their checksum is right.

    zip file ─ judged ─┐
                       ├─▶ manifest ─▶ exactly the listed parts ─▶ bytes, counted and hashed while they are read
    folder ─── judged ─┘

No size that a file declares is trusted: whoever reads a part says how large it can be, and reading stops there.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import reprlib
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any

from nndiff.words.errors import NndiffError
from nndiff.words.fields import Checked, Rule, at_least
from nndiff.words.files import parse_json
from nndiff.words.paths import MANIFEST
from nndiff.words.strict_json import decode

FORMAT, VERSION = "nndiff model", 1
LARGEST = 16 * 10**9  # bytes of all parts together
LARGEST_TEXT = 8 * 10**6  # bytes of a text; a plan has 40 kB
HIGHEST_RATIO = 50  # of a part's size to its packed size; weights reach 1.1 and texts 15
SLACK = 1 << 16  # bytes: a part this small may have any ratio
CHUNK = 1 << 20
OF_DAMAGE = (OSError, EOFError, ValueError, LookupError, RuntimeError)  # of the zip library, in a damaged file
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
SHA256 = Rule(lambda value: bool(re.fullmatch("[0-9a-f]{64}", value)), "64 hexadecimal digits")
REMEDY = "get the file again from where it came from; if it is damaged there too, do not use it"


@dataclass(frozen=True)
class Part(Checked):
    """What the manifest says about one part."""

    sha256: Annotated[str, SHA256]
    bytes: Annotated[int, at_least(0, LARGEST)]


@dataclass(frozen=True)
class Manifest:
    """The list of all parts but itself. Two archives with equal `parts` have the same content."""

    format: str
    version: int
    parts: dict[str, Part]
    versions: dict[str, str]  # of the software that made it


class Parts:
    """The parts of an open archive."""

    def __init__(self, source: _Source, manifest: Manifest, text: bytes):
        self.source, self.manifest = source, manifest
        self.text = text  # of the manifest

    @property
    def path(self) -> Path:
        return self.source.path

    def read_json(self, name: str) -> Any:
        return parse_json(self.read(name, LARGEST_TEXT), self.path / name, REMEDY)

    def read(self, name: str, most: int) -> bytes:
        return b"".join(self.chunks(name, most))

    def chunks(self, name: str, most: int) -> Iterator[bytes]:
        """Yield the bytes of a part; raise an error if they are more than `most`, or not those of the manifest."""
        listed = self.manifest.parts[name]
        if listed.bytes > most:
            raise _refusal("A part is larger than it can be.", f"{most} bytes or less", listed.bytes, self.path / name)
        found, size = hashlib.sha256(), 0
        for chunk in self.source.chunks(name, listed.bytes):
            found.update(chunk)
            size += len(chunk)
            yield chunk
        if size != listed.bytes or found.hexdigest() != listed.sha256:
            raise _refusal(
                "A part has changed since the archive was made.",
                f"{listed.bytes} bytes with SHA-256 {listed.sha256[:12]}…",
                f"{size} bytes with SHA-256 {found.hexdigest()[:12]}…",
                self.path / name,
            )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Parts]:
    """Yield the parts of a zip file, or of a folder into which one was unpacked; refuse any other content."""
    with contextlib.ExitStack() as stack:
        with _in_words(path):
            source = stack.enter_context(_opened(path))
            names = source.names()
        yield _listed(source, names)


def _listed(source: _Source, names: set[str]) -> Parts:
    """Return the parts that the manifest lists; refuse a manifest that does not list exactly the other files."""
    path = source.path
    if MANIFEST not in names:
        what, found = f"This is not a model that nndiff exported: it has no {MANIFEST}.", sorted(names)[:5]
        raise _refusal(what, None, ", ".join(map(ascii, found)) or "no file", path)
    text = b"".join(source.chunks(MANIFEST, LARGEST_TEXT))
    manifest = _manifest(text, path)
    if missing := sorted(manifest.parts.keys() - names):
        raise _refusal("A part of the archive is missing.", ascii(missing[0]), None, path)
    if additional := sorted(names - manifest.parts.keys() - {MANIFEST}):
        raise _refusal(f"The archive has a part that {MANIFEST} does not list.", None, ascii(additional[0]), path)
    return Parts(source, manifest, text)


def _manifest(text: bytes, path: Path) -> Manifest:
    data = parse_json(text, path / MANIFEST, REMEDY)
    known = (data.get("format"), data.get("version")) if isinstance(data, dict) else (None, None)
    if known[0] != FORMAT:
        raise _refusal("This is not a model that nndiff exported.", f"format {FORMAT}", reprlib.repr(known[0]), path)
    if known[1] != VERSION:
        raise NndiffError(
            "The archive was written by another version of nndiff.",
            expected=f"version {VERSION}",
            found=f"version {reprlib.repr(known[1])}",
            where=path,
            remedy="use the version of nndiff that wrote it, or export the model with this one",
        )
    try:
        manifest = decode(Manifest, data)
        total = sum(part.bytes for part in manifest.parts.values())
        if total > LARGEST:
            raise _refusal("The archive is larger than a model can be.", f"{LARGEST} bytes or less", total, path)
    except NndiffError as error:
        raise error.at(path / MANIFEST, remedy=error.remedy or REMEDY) from None
    return manifest


# ---------------------------------------------------------------- where the bytes come from


class _Source(ABC):
    """The files of an archive, by their names."""

    path: Path

    @abstractmethod
    def names(self) -> set[str]:
        """Return the names of all files; refuse what cannot be a part."""

    @abstractmethod
    def chunks(self, name: str, most: int) -> Iterator[bytes]:
        """Yield the bytes of a file; raise an error instead of yielding more than `most`."""


class _Folder(_Source):
    """A folder, as an installed model is one. Hidden files, which file managers add, are never read."""

    def __init__(self, path: Path):
        self.path = path

    def names(self) -> set[str]:
        found = [path for path in self.path.iterdir() if not path.name.startswith(".")]
        for path in found:
            if path.is_symlink() or not path.is_file():
                raise _refusal("A part must be a file.", None, "a link" if path.is_symlink() else "a folder", path)
        return {path.name for path in found}

    def chunks(self, name: str, most: int) -> Iterator[bytes]:
        with open(self.path / name, "rb") as stream:
            yield from _counted(iter(lambda: stream.read(CHUNK), b""), most, self.path / name)


class _Zip(_Source):
    """An open zip file."""

    def __init__(self, path: Path, file: zipfile.ZipFile):
        self.path, self.file = path, file

    def names(self) -> set[str]:
        infos = self.file.infolist()
        for info in infos:
            _judge(info, self.path)
        names = [info.filename for info in infos]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _refusal("Two parts of the archive have the same name.", None, ascii(twice), self.path)
        if sum(info.file_size for info in infos) > LARGEST:
            raise _refusal("The archive is larger than a model can be.", f"{LARGEST} bytes or less", None, self.path)
        return set(names)

    def chunks(self, name: str, most: int) -> Iterator[bytes]:
        packed = min(self.file.getinfo(name).compress_size, self.path.stat().st_size)
        with _in_words(self.path), self.file.open(name) as stream:
            most = min(most, _unpacked(packed))
            yield from _counted(iter(lambda: stream.read(CHUNK), b""), most, self.path / name)


def _judge(info: zipfile.ZipInfo, path: Path) -> None:
    """Refuse an entry that no export of nndiff contains, by its header alone."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if name != info.filename or any(char < " " for char in name):
        raise _refusal("A name in the archive contains a hidden character.", None, ascii(name), path)
    if _leaves(name):
        raise _refusal("A path in the archive leaves it.", "names without folders", ascii(name), path)
    if kind not in (0, stat.S_IFREG) or name.endswith("/"):
        found = "a link" if kind == stat.S_IFLNK else "a folder or a device"
        raise _refusal("A part must be a file.", None, f"{found}, {name!a}", path)
    if info.flag_bits & 1 or info.compress_type not in METHODS:
        found = "encrypted" if info.flag_bits & 1 else f"method {info.compress_type}"
        raise _refusal("A part is packed in a way that nndiff does not read.", "stored or deflated", found, path)
    if info.file_size > _unpacked(info.compress_size):
        raise _bomb(f"{info.file_size} bytes packed into {info.compress_size}", path / name)


def _leaves(name: str) -> bool:
    """Return whether a name means a place outside the folder that it is unpacked into, on any system."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    return name.startswith(("/", "\\")) or ".." in parts or bool(PureWindowsPath(name).drive)


def _unpacked(packed: int) -> int:
    """Return how large a part can be that has so many bytes in the file."""
    return HIGHEST_RATIO * packed + SLACK


def _counted(chunks: Iterator[bytes], most: int, where: Path) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > most:
            raise _bomb(f"more than {most} bytes", where)
        yield chunk


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Source]:
    if path.is_dir():
        yield _Folder(path)
        return
    with zipfile.ZipFile(path) as file:
        yield _Zip(path, file)


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Say in words what the zip library finds wrong with a file."""
    try:
        yield
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, *OF_DAMAGE) as error:
        what = f"{path.name} is not a zip file, or it is damaged."
        raise _refusal(what, None, str(error)[:120] or type(error).__name__, path) from None


def _bomb(found: str, where: Path) -> NndiffError:
    return _refusal("A part becomes larger than weights and texts can.", None, found, where)


def _refusal(what: str, expected: object, found: object, where: Path) -> NndiffError:
    return NndiffError(what, expected=expected, found=found, where=where, remedy=REMEDY)
