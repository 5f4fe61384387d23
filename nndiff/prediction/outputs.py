"""The output files of a case: one volume per target channel, and further files on request.

CASE_0000.nii.gz                      the mean of the draws
uncertainty/CASE_0000.nii.gz          their standard deviation, times the factor that tuning measured
expected_error/CASE_0000.nii.gz       the error that the network expects of one step, per voxel
samples/CASE_sample00_0000.nii.gz     each draw
dicom/CASE_0000                       the mean as a derived DICOM series
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nndiff.data.prepare import Undo
from nndiff.imaging import dicom_out, io
from nndiff.prediction.draws import Computed, Draws
from nndiff.prediction.inputs import DICOM_TO, InputCase
from nndiff.prediction.models import Trained
from nndiff.prediction.request import Request
from nndiff.words.version import VERSION
from nndiff.words.volume import FloatArray, Volume

UNCERTAINTY, SAMPLES, SERIES = "uncertainty", "samples", "dicom"  # folders beside the volumes
EXPECTED = "expected_error"


@dataclass(frozen=True)
class Outputs:
    """The paths of all outputs of a request."""

    request: Request
    channels: int  # of the target
    draws: int

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return the folders into which volumes are written."""
        folder = self.request.output
        return folder, folder / UNCERTAINTY, folder / SAMPLES, folder / EXPECTED

    def volumes(self, case: InputCase) -> list[Path]:
        return self._channels(case)

    def series(self, volume: Path) -> Path:
        """Return the folder of the DICOM series that is derived from the volume."""
        return self.request.output / SERIES / volume.name.removesuffix(DICOM_TO)

    def uncertainties(self, case: InputCase) -> list[Path]:
        return self._channels(case, below=UNCERTAINTY)

    def expected_errors(self, case: InputCase) -> list[Path]:
        return self._channels(case, below=EXPECTED)

    def samples(self, case: InputCase) -> list[list[Path]]:
        """Return the paths of every draw, one per target channel."""
        return [self._channels(case, f"_sample{k:02d}", SAMPLES) for k in range(self.draws)]

    def exist(self, case: InputCase) -> bool:
        """Return whether all outputs of the case exist."""
        return all(path.exists() for path in self._every(case))

    def _every(self, case: InputCase) -> list[Path]:
        files = self.volumes(case)
        if self.request.dicom_out:
            files += [self.series(path) for path in self.volumes(case)]
        if self.request.save_uncertainty:
            files += self.uncertainties(case)
        if self.request.save_expected_error:
            files += self.expected_errors(case)
        if self.request.save_samples:
            files += [path for paths in self.samples(case) for path in paths]
        return files

    def _channels(self, case: InputCase, word: str = "", below: str = ".") -> list[Path]:
        folder = self.request.output / below
        return [folder / f"{case.name}{word}_{channel:04d}{case.ending}" for channel in range(self.channels)]


@dataclass(frozen=True)
class Writer:
    """A function that writes the outputs of a case, on the grid of the source and in the units of the target."""

    outputs: Outputs
    trained: Trained
    spread_scale: float = 1.0  # factor of the draws' standard deviation

    @property
    def note(self) -> str:
        """The origin of the files, which each of them states."""
        return f"{self.trained.configuration} of {self.trained.plan.dataset}, nndiff {VERSION}"

    def __call__(self, case: InputCase, computed: Computed) -> dict[str, Any]:
        """Write all files of the case, and return its entry in the record."""
        clock = time.perf_counter()
        undo, draws = computed.read.prepared.undo, computed.draws
        if self.outputs.request.save_uncertainty:
            _write_spread(self.spread_scale * draws.spread, undo, self.outputs.uncertainties(case), self.note)
        if computed.expected_error is not None:
            _write_spread(computed.expected_error, undo, self.outputs.expected_errors(case), self.note)
        for sample, paths in zip(draws.kept, self.outputs.samples(case), strict=bool(draws.kept)):
            for path, array in zip(paths, self._in_units(sample, undo), strict=True):
                _write_channel(array, undo, path, np.float32, self.note)
        self._write_mean(case, undo, draws)
        return self._row(case, computed, time.perf_counter() - clock)

    def _write_mean(self, case: InputCase, undo: Undo, draws: Draws) -> None:
        paths, channels = self.outputs.volumes(case), self.trained.plan.target_channels
        for path, array, channel_word in zip(paths, self._in_units(draws.mean, undo), channels, strict=True):
            _write_channel(array, undo, path, channel_word.kind.dtype, self.note)
            if self.outputs.request.dicom_out:
                assert undo.layout is not None
                stored = io.as_stored(array, undo.layout)
                dicom_out.write(stored, channel_word.kind, self.note, case.files[0], self.outputs.series(path))

    def _in_units(self, estimate: FloatArray, undo: Undo) -> FloatArray:
        """Return the estimate in the target's units; splines do not carry it below what is physical.

        Where training targets were lower than that, the estimate may be as low as they were.
        """
        array = undo(estimate).array
        for channel, word, (low, _), m in zip(
            array, self.trained.plan.target_channels, self.trained.plan.target_range, undo.maps, strict=True
        ):
            if word.kind.floor is not None:
                np.maximum(channel, min(word.kind.floor, low * m.scale + m.offset), out=channel)
        return array

    def _row(self, case: InputCase, computed: Computed, seconds: float) -> dict[str, Any]:
        read, arrangement = computed.read, computed.arrangement
        return {
            "outputs": [path.name for path in self.outputs.volumes(case)],
            "warnings": read.warnings,
            "shape": list(read.prepared.grid.shape),
            "tiles": len(arrangement.tiling),
            "tile": list(arrangement.tiling.size),
            "predicted_bytes": arrangement.bytes,
            "seconds": {
                "read": round(read.seconds, 3),
                "compute": round(computed.seconds, 3),
                "write": round(seconds, 3),
            },
        }


def _write_spread(deviation: FloatArray, undo: Undo, paths: Sequence[Path], note: str) -> None:
    spread = np.maximum(undo.of_spread()(deviation).array, 0)  # splines can overshoot below 0
    for path, array in zip(paths, spread, strict=True):
        _write_channel(array, undo, path, np.float32, note)


def _write_channel(array: FloatArray, undo: Undo, path: Path, dtype: Any, note: str) -> None:
    io.write(Volume(array[None], undo.original, undo.layout), path, dtype, note)
