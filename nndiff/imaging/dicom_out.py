"""Write a volume as a DICOM series on the slices of its source: same patient, study and frame of reference, new UIDs.

    source series ─ patient, study, place ─▶ header of each slice ◀─ numbers: 16 bits, one slope   SYNTHETIC in its name

Only the attributes listed here are copied from the source: no private tags, and no settings of the scanner, which did
not acquire this image.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nndiff.imaging import dicom
from nndiff.words.errors import NndiffError
from nndiff.words.files import PART
from nndiff.words.kind import Kind
from nndiff.words.version import VERSION
from nndiff.words.volume import FloatArray

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
PLACE = ("FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition", "Laterality", "StudyDescription")
EMPTY_WHERE_UNKNOWN = {*PATIENT[:4], *STUDY[1:], *PLACE[1:4]}  # must be present, may be empty
OF_PET = ("CorrectedImage", "DecayCorrection", "SeriesType", "RadiopharmaceuticalInformationSequence")
LARGEST = 32767
SERIES_NUMBER = 9000  # added to the source's series number: far above the numbers that scanners assign


def write(array: FloatArray, kind: Kind, what: str, source: Path, folder: Path) -> None:
    """Write `array` [Z, Y, X] on the slices of the DICOM series `source`; `what` describes its origin for readers.

    Kinds with whole numbers are stored with a slope of 1. The folder is written completely or not at all.
    """
    series, headers = dicom.headers(source)
    assert array.shape == series.grid.shape, (array.shape, series.grid.shape)
    slope = 1.0 if kind.whole_numbers else float(f"{max(float(np.abs(array).max()), 1e-6) / LARGEST:.9g}")
    stored = np.clip(np.rint(array / slope), 0 if kind.true_zero else -LARGEST - 1, LARGEST).astype("<i2")
    common = _common(headers[0], kind, what, slope, series.grid.shape[0])
    part = folder.with_name(f"{PART}{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for k, (place, header) in enumerate(zip(series.slices, headers, strict=True)):
            made = _slice(common, place, header, k, series.grid.spacing[0])
            made.PixelData = stored[k].tobytes()
            made.save_as(part / f"{k + 1:04d}.dcm", enforce_file_format=True)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        raise NndiffError(
            "The DICOM series cannot be written.",
            found=error.strerror,
            where=folder,
            remedy="free some space, or choose another folder; then run the same command again",
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _common(source: Dataset, kind: Kind, what: str, slope: float, slices: int) -> Dataset:
    """Return the attributes that all slices share."""
    from pydicom import uid
    from pydicom.dataset import Dataset, FileMetaDataset

    made, now = Dataset(), time.localtime()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = getattr(uid, kind.dicom_class)
    for keyword in (*PATIENT, *STUDY, *PLACE):
        if keyword in source or keyword in EMPTY_WHERE_UNKNOWN:
            setattr(made, keyword, source.get(keyword))
    made.setdefault("FrameOfReferenceUID", uid.generate_uid())
    made.Modality, made.SeriesInstanceUID = kind.dicom_modality, uid.generate_uid()
    made.SeriesNumber = SERIES_NUMBER + int(source.get("SeriesNumber") or 0)
    made.SeriesDescription = f"SYNTHETIC {kind.dicom_modality} (nndiff)"
    made.DerivationDescription = f"Synthetic image, not acquired: {what}"[:1024]
    made.ImageComments = "SYNTHETIC: made by a neural network, not by a scanner"
    made.Manufacturer, made.SoftwareVersions = "nndiff", VERSION
    made.ContentDate = made.SeriesDate = time.strftime("%Y%m%d", now)
    made.ContentTime = made.SeriesTime = time.strftime("%H%M%S", now)
    made.BurnedInAnnotation, made.LossyImageCompression = "NO", "00"
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 1
    made.RescaleSlope, made.RescaleIntercept = f"{slope:.9g}", "0"
    MODULES.get(kind.dicom_class, _other)(made, source, slices)
    return made


def _ct(made: Dataset, source: Dataset, slices: int) -> None:
    made.ImageType, made.RescaleType = ["DERIVED", "SECONDARY", "AXIAL"], "HU"
    made.KVP = made.AcquisitionNumber = None


def _pet(made: Dataset, source: Dataset, slices: int) -> None:
    made.ImageType, made.Units, made.SUVType = ["DERIVED", "PRIMARY"], "GML", "BW"
    made.CountsSource, made.CollimatorType, made.DecayCorrection, made.DecayFactor = "EMISSION", "NONE", "START", "1"
    made.SeriesType, made.CorrectedImage, made.NumberOfSlices = ["STATIC", "IMAGE"], ["DECY"], slices
    made.RadiopharmaceuticalInformationSequence = []
    for keyword in OF_PET:
        if keyword in source:
            setattr(made, keyword, source[keyword].value)
    for dose in made.RadiopharmaceuticalInformationSequence:
        dose.setdefault("RadionuclideCodeSequence", [])
    made.AcquisitionDate = source.get("AcquisitionDate") or source.get("SeriesDate") or made.ContentDate
    made.AcquisitionTime = source.get("AcquisitionTime") or source.get("SeriesTime") or made.ContentTime
    made.FrameReferenceTime, made.ActualFrameDuration = "0", source.get("ActualFrameDuration") or "1"
    made.PatientOrientationCodeSequence, made.PatientGantryRelationshipCodeSequence = [], []
    del made.PatientPosition  # replaced by these two sequences


def _mr(made: Dataset, source: Dataset, slices: int) -> None:
    made.ImageType, made.ScanningSequence, made.SequenceVariant = ["DERIVED", "SECONDARY", "OTHER"], "RM", "NONE"
    made.ScanOptions = made.RepetitionTime = made.EchoTime = made.EchoTrainLength = None
    made.MRAcquisitionType = "3D"


def _other(made: Dataset, source: Dataset, slices: int) -> None:
    made.ImageType, made.ConversionType = ["DERIVED", "SECONDARY"], "WSD"


def _slice(common: Dataset, place: dicom.Slice, source: Dataset, k: int, thickness: float) -> Any:
    from copy import deepcopy

    from pydicom import uid
    from pydicom.dataset import Dataset

    made, reference = deepcopy(common), Dataset()
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    made.InstanceNumber = k + 1
    made.Rows, made.Columns = place.shape
    made.ImagePositionPatient = [_decimal(value) for value in place.position]
    made.ImageOrientationPatient = [_decimal(value) for value in place.orientation]
    made.PixelSpacing = [_decimal(value) for value in place.spacing]
    made.SliceThickness = _decimal(thickness)
    if made.SOPClassUID == uid.PositronEmissionTomographyImageStorage:
        made.ImageIndex = k + 1
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if place.frame >= 0:
        reference.ReferencedFrameNumber = place.frame + 1
    made.SourceImageSequence = [reference]
    return made


def _decimal(value: float) -> str:
    """Return a DICOM decimal string, which has at most sixteen characters."""
    return f"{value:.9g}" if len(f"{value:.9g}") <= 16 else f"{value:.7g}"


# storage class → the function that sets the attributes which only this class requires
MODULES = {"CTImageStorage": _ct, "PositronEmissionTomographyImageStorage": _pet, "MRImageStorage": _mr}
