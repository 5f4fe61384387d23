"""The three root folders, raw, preprocessed and results, from a flag or the environment, looked up when first used."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nndiff.words.errors import NndiffError, nearest

MODELS = "models"  # folder of installed models, below the results
MANIFEST = "manifest.json"  # the part of an archive that lists the others
FOLDER = re.compile(r"^Dataset(\d{3})_(\w[\w-]*)$")


@dataclass(frozen=True)
class Paths:
    """The three root folders; one that is None is looked up in the environment when it is used."""

    raw_root: Path | None = None
    preprocessed_root: Path | None = None
    results_root: Path | None = None

    @property
    def raw(self) -> Path:
        return _root("raw", self.raw_root)

    @property
    def preprocessed(self) -> Path:
        return _root("preprocessed", self.preprocessed_root)

    @property
    def results(self) -> Path:
        return _root("results", self.results_root)

    def dataset_name(self, wanted: str) -> str:
        """Return the folder name of the dataset '1', '001' or 'Dataset001_Name', searched below every known root."""
        names = sorted({name for root in self._searched() for name in _dataset_folders(root)})
        matches = [name for name in names if name == wanted or (wanted.isdecimal() and int(name[7:10]) == int(wanted))]
        if len(matches) == 1:
            return matches[0]
        roots = ", ".join(str(root) for root in self._searched())
        if matches:
            raise NndiffError(
                f"Several datasets have the number {wanted}.",
                found=", ".join(matches),
                where=roots,
                remedy="give each dataset its own number",
            )
        raise NndiffError(
            f"There is no dataset '{wanted}'.",
            expected=f"a folder such as Dataset{int(wanted) if wanted.isdecimal() else 1:03d}_Name",
            found=", ".join(names) or "none",
            where=roots,
            remedy="correct the number, or set the folder that contains the dataset (export nndiff_raw=…, or --raw …)",
        )

    @property
    def preprocessed_if_set(self) -> Path | None:
        return self.preprocessed if _is_set("preprocessed", self.preprocessed_root) else None

    @property
    def models(self) -> Path:
        return self.results / MODELS

    def installed_model(self, name: str) -> Path:
        """Return the folder of an installed model; the error lists those that are installed."""
        there = sorted(path.name for path in self.models.iterdir() if is_archive(path)) if self.models.is_dir() else []
        if name not in there:
            raise NndiffError(
                f"There is no installed model '{name}'.",
                found=", ".join(there) or "none",
                where=self.models,
                remedy=nearest(name, there) if there else "install it first: nndiff_install_model MODEL.zip",
            )
        return self.models / name

    def _searched(self) -> list[Path]:
        """Return the known roots; if there are none, raise the error about the raw root."""
        roots = []
        for kind, given in (
            ("raw", self.raw_root),
            ("preprocessed", self.preprocessed_root),
            ("results", self.results_root),
        ):
            if _is_set(kind, given):
                roots.append(_root(kind, given))
        return roots or [self.raw]


def demand_input(path: Path) -> None:
    """Refuse an input that is neither a folder of scans nor a scan."""
    if not path.exists():
        raise NndiffError("The input folder does not exist.", where=path, remedy="correct the path after -i")


def demand_model(path: Path) -> None:
    if not path.is_dir() and not is_archive(path):
        raise NndiffError(
            "There is no such model.",
            expected="a folder, or a file that ends in .zip" if path.exists() else None,
            found="another file" if path.exists() else None,
            where=path,
            remedy="train it first, or correct -m, -d or -c",
        )


def demand_zip(path: Path) -> None:
    """Refuse a file from which no model can be installed, by its name."""
    if not is_zip(path) or not path.is_file():
        raise NndiffError(
            "A model is installed from a zip file.",
            found=path.name if path.exists() else "no such file",
            where=path,
            remedy="pass a file that nndiff_export_model has written",
        )


def demand_zip_name(path: Path) -> None:
    if not is_zip(path):
        raise NndiffError(
            "A model is exported into a zip file.",
            expected="a name that ends in .zip",
            found=path.name,
            remedy="correct the name after -o",
        )


def is_archive(path: Path) -> bool:
    """Return whether a model was handed on as one file (`nndiff.archive`), or was unpacked from such a file."""
    return (is_zip(path) and path.is_file()) or (path / MANIFEST).is_file()


def is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _is_set(kind: str, given: Path | None) -> bool:
    return given is not None or bool(os.environ.get(f"nndiff_{kind}"))


def _root(kind: str, given: Path | None) -> Path:
    value = str(given) if given is not None else os.environ.get(f"nndiff_{kind}", "")
    if not value:
        raise NndiffError(
            f"The folder for {kind if kind == 'results' else f'{kind} data'} is not set.",
            remedy=f"export nndiff_{kind}=/some/folder, or pass --{kind} /some/folder",
        )
    return Path(value).expanduser().resolve()


def _dataset_folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return [entry.name for entry in root.iterdir() if entry.is_dir() and FOLDER.match(entry.name)]
