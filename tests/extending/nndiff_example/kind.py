"""A modality: ultrasound."""

from __future__ import annotations

from nndiff.words.kind import Kind
from nndiff.words.scheme import Scheme

ULTRASOUND = Kind(
    name="us",
    units="arbitrary units",
    meaning="ultrasound has arbitrary units",
    source=Scheme("percentiles", {"low": 0.5, "high": 99.5}),
    source_reason="the P0.5 and P99.5 of each scan's foreground are mapped to -1 and 1",
    foreground=Scheme("of_span", {"share": 0.1}),
    words=("US", "ULTRASOUND"),
    contrast_varies=True,
    dicom_modality="US",
    dicom_class="UltrasoundImageStorage",
)
