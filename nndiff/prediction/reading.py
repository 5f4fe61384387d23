"""Reading of a case: prepares its files for the network, and warns if it differs from the training cases.

The files are decoded in a process apart: they may come from strangers, and crash or hang a library.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nndiff.data.prepare import Prepared, empty, prepare
from nndiff.imaging import dicom, io
from nndiff.prediction.inputs import InputCase
from nndiff.prediction.models import Trained
from nndiff.resources.apart import Apart
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Volume

UNITS_APART = 3.0  # warn of other units if the peak is this many times above or below those of all training cases
BEGINS_APART = 0.1  # and if the lowest value is this share of the training's range beyond those of all training cases
COARSER = 1.6  # warn of a spacing above this multiple of the trained one, along some axis
PATIENCE, SLOWEST = 600.0, 1e5  # s that decoding may take in any case, and the least bytes a second

Decoder = Apart[Sequence[Path], Volume]


def decoder() -> Decoder:
    return Apart(io.read)


@dataclass(frozen=True, eq=False)
class Read:
    """A case in memory, ready for the network."""

    prepared: Prepared
    warnings: list[str]
    seconds: float


@dataclass(frozen=True)
class Reader:
    """A function that reads a case as in training; a case without files (generation) becomes an empty volume."""

    trained: Trained
    dicom_out: bool
    decoded: Decoder

    def __call__(self, case: InputCase) -> Read:
        clock = time.perf_counter()
        if not case.files:
            return Read(empty(self.trained.preparation), [], 0.0)
        if self.dicom_out:
            _demand_series(case)
        source = self.decoded(case.files, PATIENCE + _bytes(case.files) / SLOWEST)
        _demand_finite(source, case.files[0])
        prepared = prepare(source, None, None, self.trained.preparation)
        warnings = [*self._other_units(source), *self._coarser(source)]
        return Read(prepared, warnings, time.perf_counter() - clock)

    def _other_units(self, source: Volume) -> list[str]:
        """Return a warning for each channel whose highest or lowest values are far from those of all training cases."""
        lines = []
        for channel, seen in zip(source.array, self.trained.seen, strict=True):
            peak = float(np.percentile(channel, 99.99))
            low, high = seen.peaks
            if not low / UNITS_APART <= peak <= high * UNITS_APART:
                lines.append(
                    f"{seen.name}: the intensities are outside the training range (P99.99 is {peak:.4g}, in training "
                    f"{low:.4g} to {high:.4g}); check that the units are the same"
                )
                continue
            least, (lowest, highest) = float(channel.min()), seen.minima
            apart = BEGINS_APART * (high - lowest)
            if not lowest - apart <= least <= highest + apart:
                lines.append(
                    f"{seen.name}: the intensities begin at {least:.4g}, in training at {lowest:.4g} to {highest:.4g}; "
                    f"check that this is {seen.name}, in the same units"
                )
        return lines

    def _coarser(self, source: Volume) -> list[str]:
        """Return a warning if the voxels are much larger than those of the model."""
        own, trained = source.grid.spacing, self.trained.preparation.spacing
        if not any(here > COARSER * there for here, there in zip(own, trained, strict=True)):
            return []
        coarse, fine = (" x ".join(f"{s:.3g}" for s in spacing) for spacing in (own, trained))
        return [f"the spacing of {coarse} mm is coarser than that of the training, {fine} mm"]


def _bytes(files: Sequence[Path]) -> int:
    """Return the bytes of files, and of those in folders."""
    found = [each for path in files for each in (path.iterdir() if path.is_dir() else [path])]
    return sum(path.stat().st_size for path in found if path.is_file())


def _demand_series(case: InputCase) -> None:
    if not dicom.is_series(case.files[0]):
        raise NndiffError(
            "--dicom_out needs DICOM scans, because it copies the patient and the study from them.",
            expected=f"{case.name} as a folder or a zip file of one series",
            found=case.files[0].name,
            remedy="leave out --dicom_out",
        )


def _demand_finite(source: Volume, path: Path) -> None:
    if not np.isfinite(source.array).all():
        bad = int((~np.isfinite(source.array)).sum())
        raise NndiffError(
            "The source contains NaN or infinite values.",
            found=f"{bad} of {source.array.size} voxels",
            where=path,
            remedy="replace these values in the file; nndiff does not guess them",
        )
