"""Convert PET activity to body-weight SUV with the remaining dose and the weight in the DICOM headers.

SUV = Bq/ml · 1000 · weight [kg] / (dose [Bq] · 2^(-waited / half-life))
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nndiff.words.errors import NndiffError


def suv_factor(headers: Sequence[Any], path: Path) -> float:
    """Return the factor from Bq/ml to SUV: the body weight over the remaining dose at the start of the scan.

    It is 1 for other modalities and for PET that is stored in SUV.
    """
    first = headers[0]
    if first.get("Modality") != "PT":
        return 1.0
    units = str(first.get("Units", ""))
    if units == "GML":
        return 1.0
    if units != "BQML":
        raise NndiffError(
            "The values of this PET are neither Bq/ml nor SUV.",
            expected="Units (0054,1001) BQML or GML",
            found=units or "none",
            where=path,
            remedy="export the series in Bq/ml",
        )
    doses = first.get("RadiopharmaceuticalInformationSequence") or [{}]
    weight, half_life = _positive(first, "PatientWeight", path), _positive(doses[0], "RadionuclideHalfLife", path)
    dose = _positive(doses[0], "RadionuclideTotalDose", path)
    correction = str(first.get("DecayCorrection", "START"))
    if correction == "NONE":
        raise NndiffError(
            "This PET is not corrected for radioactive decay.",
            expected="DecayCorrection START or ADMIN",
            found=correction,
            where=path,
            remedy="reconstruct it with decay correction",
        )
    waited = 0.0 if correction == "ADMIN" else _waited(headers, doses[0], path)
    return float(1000 * weight / (dose * 2 ** (-waited / half_life)))


def _positive(place: Any, keyword: str, path: Path) -> float:
    value = place.get(keyword)
    if value is None or not float(value) > 0:
        raise NndiffError(
            f"SUV cannot be computed: the DICOM header has no valid {keyword}.",
            found="none" if value is None else value,
            where=path,
            remedy="add it to the headers, or convert the series to SUV and use NIfTI files",
        )
    return float(value)


def _waited(headers: Sequence[Any], dose: Any, path: Path) -> float:
    """Return the seconds from the injection to the earliest series or acquisition time, to which decay is corrected."""
    began = min(time for header in headers for time in _times(header))
    given = _moment(dose.get("RadiopharmaceuticalStartDateTime"))
    clock = dose.get("RadiopharmaceuticalStartTime")
    if given is None and clock:
        given = _moment(f"{began:%Y%m%d}{clock}")
        if given is not None and given > began:
            given -= timedelta(days=1)  # injected before midnight
    if given is None or given > began:
        raise NndiffError(
            "SUV cannot be computed: the DICOM header has no valid time of injection.",
            expected="a RadiopharmaceuticalStartTime before the scan",
            found=given,
            where=path,
            remedy="add it to the headers, or convert the series to SUV and use NIfTI files",
        )
    return (began - given).total_seconds()


def _times(header: Any) -> Iterator[datetime]:
    for kind in ("Series", "Acquisition"):
        date, clock = header.get(f"{kind}Date") or header.get("SeriesDate"), header.get(f"{kind}Time")
        moment = _moment(f"{date}{clock}") if date and clock else None
        if moment is not None:
            yield moment


def _moment(text: Any) -> datetime | None:
    """Return the time of a text YYYYMMDDHHMMSS, or None; its zone is ignored, since all times of a study share it."""
    whole, _, fraction = str(text or "").partition("+")[0].partition("-")[0].partition(".")
    with contextlib.suppress(ValueError):
        return datetime.strptime(whole[:14].ljust(14, "0"), "%Y%m%d%H%M%S") + timedelta(seconds=float(f"0.{fraction}0"))
    return None
