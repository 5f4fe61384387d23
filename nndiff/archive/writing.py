"""The writing of an archive: the same parts give the same bytes, at any time and on any machine."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path

from nndiff.archive.parts import FORMAT, VERSION, Manifest, Part
from nndiff.words.files import dumps
from nndiff.words.paths import MANIFEST
from nndiff.words.strict_json import encode
from nndiff.words.version import versions

LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first time that a zip file can hold
UNIX = 3


def write(path: Path, parts: Iterable[tuple[str, bytes]]) -> None:
    """Write the parts and their manifest into a zip file; nothing is packed, because weights hardly become smaller."""
    listed = {}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts:
            _write(archive, name, data)
            listed[name] = Part(hashlib.sha256(data).hexdigest(), len(data))
        manifest = Manifest(FORMAT, VERSION, listed, versions())
        _write(archive, MANIFEST, f"{dumps(encode(manifest))}\n".encode())


def _write(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, LONG_AGO)
    entry.create_system, entry.external_attr = UNIX, (stat.S_IFREG | 0o644) << 16
    archive.writestr(entry, data)
