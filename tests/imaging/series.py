"""DICOM series for tests, made from a grid and an array: one file per slice, or one file with many frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

from nndiff.words.volume import FloatArray, Grid

DOSE, HALF_LIFE, WEIGHT = 350e6, 6586.2, 72.5
INJECTED, BEGAN = "093000.500000", "103010.000000"
WAITED = 3609.5  # seconds between the two


def write_series(folder: Path, array: FloatArray, grid: Grid, modality: str = "CT", **words: Any) -> list[Path]:
    """One file a slice, in an order and under names that say nothing; `words` overwrite headers, callables by slice."""
    folder.mkdir(parents=True, exist_ok=True)
    series, frame, paths = generate_uid(), generate_uid(), []
    for k in range(grid.shape[0]):
        header = _plain(modality, series, frame)
        header.SOPInstanceUID, header.InstanceNumber = generate_uid(), k + 1
        _place(header, header, grid, k)
        slope, intercept = (1.0, -1024.0) if modality == "CT" else (float(np.ptp(array[k]) / 30000 + 1e-6), 0.0)
        header.RescaleSlope, header.RescaleIntercept = f"{slope:.10g}", f"{intercept:.10g}"
        _pixels(header, array[k], float(header.RescaleSlope), intercept)
        for keyword, value in words.items():
            _set(header, keyword, value(k) if callable(value) else value)
        paths.append(folder / f"I{(7 * k + 3) % 101:03d}")
        header.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_frames(path: Path, array: FloatArray, grid: Grid) -> Path:
    """An enhanced CT: every frame's place, slope and intercept in functional groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = _plain("CT", generate_uid(), generate_uid())
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    header.SOPInstanceUID, header.NumberOfFrames = generate_uid(), grid.shape[0]
    frames = []
    for k in range(grid.shape[0]):
        measures, place, turned, values, group = (Dataset() for _ in range(5))
        _place(_Split(measures, place, turned), header, grid, k)
        values.RescaleSlope, values.RescaleIntercept = str(k + 1), "-1000"
        group.PixelMeasuresSequence, group.PlanePositionSequence = Sequence([measures]), Sequence([place])
        group.PlaneOrientationSequence, group.PixelValueTransformationSequence = Sequence([turned]), Sequence([values])
        frames.append(group)
    header.PerFrameFunctionalGroupsSequence = Sequence(frames)
    stored = [np.round((array[k] + 1000) / (k + 1)).astype(np.int16) for k in range(grid.shape[0])]
    _pixels(header, np.stack(stored), 1.0, 0.0)
    header.save_as(path, enforce_file_format=True)
    return path


class _Split:
    """Geometry by keyword, into the three groups that hold it."""

    def __init__(self, measures: Dataset, place: Dataset, turned: Dataset):
        self.__dict__["of"] = {
            "PixelSpacing": measures,
            "SliceThickness": measures,
            "ImagePositionPatient": place,
            "ImageOrientationPatient": turned,
        }

    def __setattr__(self, keyword: str, value: Any) -> None:
        setattr(self.of[keyword], keyword, value)


def _plain(modality: str, series: str, frame: str) -> Dataset:
    kind = CTImageStorage if modality == "CT" else PositronEmissionTomographyImageStorage
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID, header.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, kind
    header.SOPClassUID, header.Modality = kind, modality
    header.SeriesInstanceUID, header.FrameOfReferenceUID = series, frame
    header.PatientName, header.PatientID, header.SeriesDescription = "Doe^Jane", "4711", "thorax"
    header.StudyInstanceUID, header.StudyID = generate_uid(entropy_srcs=["study"]), "S1"
    header.add_new((0x0029, 0x1010), "LO", "a scanner's own secret")
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = "20240229"
    header.SeriesTime = header.AcquisitionTime = BEGAN
    if modality == "PT":
        header.Units, header.DecayCorrection, header.PatientWeight = "BQML", "START", str(WEIGHT)
        dose = Dataset()
        dose.RadionuclideTotalDose, dose.RadionuclideHalfLife = str(DOSE), str(HALF_LIFE)
        dose.RadiopharmaceuticalStartTime = INJECTED
        header.RadiopharmaceuticalInformationSequence = Sequence([dose])
    return header


def _place(place: Any, header: Dataset, grid: Grid, k: int) -> None:
    header.Rows, header.Columns = grid.shape[1:]
    matrix = grid.matrix
    place.ImagePositionPatient = [f"{value:.10g}" for value in grid.position((k, 0, 0))]
    place.ImageOrientationPatient = [f"{value:.10g}" for value in (*matrix[:, 2], *matrix[:, 1])]
    place.PixelSpacing = [f"{value:.10g}" for value in grid.spacing[1:]]
    place.SliceThickness = f"{grid.spacing[0]:.10g}"


def _pixels(header: Dataset, array: FloatArray, slope: float, intercept: float) -> None:
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, 1
    header.PixelData = np.round((array - intercept) / slope).astype("<i2").tobytes()


def _set(header: Dataset, keyword: str, value: Any) -> None:
    """A header's field, or one of its injection's; None takes it away."""
    place = (
        header
        if keyword in header or not keyword.startswith("Radio")
        else (header.RadiopharmaceuticalInformationSequence[0])
    )
    if value is None:
        delattr(place, keyword)
    else:
        setattr(place, keyword, value)
