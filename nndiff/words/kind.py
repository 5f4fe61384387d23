"""Modalities: what the values of a channel mean (CT, PET or MR), and every setting of nndiff that depends on it.

    channel name ─ kind_of ─▶ Kind ─▶ its normaliser, foreground, background, range of the metrics, DICOM class, …

No other file distinguishes modalities: each reads the fields of a `Kind`. JSON stores its name (`Channel.kind`: "ct").
A new modality is one row of KINDS at the end of this file or, in another package, an entry point of the group
nndiff.kind that names a `Kind`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nndiff.words.registry import Registry
from nndiff.words.scheme import Scheme
from nndiff.words.strict_json import Named
from nndiff.words.volume import Range

SYNTHRAD_RANGES: dict[str, Range] = {"2025": (-1024.0, 3071.0), "2023": (-1024.0, 3000.0)}  # HU, as in each year's code


@dataclass(frozen=True)
class Lowest:
    """What the lowest value of a scan says about its modality and its units."""

    certain: float  # a scan with lower values has this modality, if its channel has no name
    doubtful: float  # a scan without lower values is probably in other units
    because: str


@dataclass(frozen=True)
class Kind(Named):
    """One modality. The default of a field is the behaviour of a modality without special rules."""

    name: str  # in plans, in metrics.csv and after --kind
    units: str
    meaning: str  # of the values; the reason in the plan begins with this text
    source: Scheme  # how a source channel is normalised: a row of imaging.normalize.NORMALIZERS
    source_reason: str
    foreground: Scheme  # how the body is found: a row of imaging.crop.FOREGROUNDS
    words: tuple[str, ...] = ()  # whole words, in capitals, that identify this modality in a channel's name
    parts: tuple[str, ...] = ()  # the same, but also matched inside longer words
    background: float = 0.0  # the value of empty space
    window: Scheme | None = None  # normalisation of every target; only for modalities with absolute values
    generation_window: Scheme | None = None  # replaces `window` if the task is generation
    true_zero: bool = False  # 0 means no signal, and normalisation keeps it
    floor: float | None = None  # physically lowest value; there is no limit above, where lesions are
    one_scale: bool = True  # whether the units of two channels of this modality agree
    ratios: bool = True  # whether the ratio of two values has a meaning
    lowest: Lowest | None = None
    dtype: type[np.int16 | np.float32] = np.float32  # of predicted files
    metric_range: Range | None = None  # of PSNR, SSIM and MS-SSIM; None: the range of the truth
    metric_ranges: Mapping[str, Range] = field(default_factory=dict)  # edition of SynthRAD → its range
    scale_varies: bool = False  # augmentation: multiply source and target by one factor, if they share a scale
    contrast_varies: bool = False  # augmentation: change the contrast of the source alone
    rim: int = 0  # how clearly the body's surface is visible: masks are drawn from the channel with the highest
    dicom_modality: str = "OT"
    dicom_class: str = "SecondaryCaptureImageStorage"  # as pydicom.uid names it

    @classmethod
    def rows(cls) -> Registry[Any]:
        return KINDS

    @property
    def title(self) -> str:
        """Return the name as it is written in sentences."""
        return self.name.upper()

    @property
    def absolute(self) -> bool:
        """Return whether a value means the same in every scan."""
        return self.window is not None

    @property
    def whole_numbers(self) -> bool:
        return np.issubdtype(self.dtype, np.integer)

    def announced_by(self, channel_name: str) -> bool:
        text = channel_name.upper()
        return bool({*self.words} & {*re.split(r"[^A-Z0-9]+", text)}) or any(part in text for part in self.parts)

    def window_of(self, task: str) -> Scheme | None:
        """Return the fixed normalisation of a target; None if the values are not absolute."""
        return self.generation_window or self.window if task == "generation" else self.window

    def range_of(self, edition: str) -> Range | None:
        """Return the range in which metrics are computed; None for the range of the truth."""
        return self.metric_ranges.get(edition, self.metric_range)


def kind_of(channel_name: str) -> Kind:
    """Return the modality that a channel's name contains; MR, whose units are arbitrary, if it contains none.

    If it contains several, the last one in the table counts: "PET/CT" is PET, and a kind of another package takes
    precedence over the built-in ones.
    """
    announced = [kind for kind in KINDS.values() if kind.announced_by(channel_name)]
    return announced[-1] if announced else KINDS["mr"]


def kind_by_values(lowest: float) -> Kind:
    """Return the modality of a scan without a channel name, from its lowest value; PET if it is not decisive."""
    certain = [kind for kind in KINDS.values() if kind.lowest is not None and lowest < kind.lowest.certain]
    return certain[-1] if certain else KINDS["pet"]


CT = Kind(
    name="ct",
    units="HU",
    meaning="Hounsfield units are absolute",
    source=Scheme("fixed", {"low": -1024.0, "high": 3071.0}),
    source_reason="all cases share one fixed window, which is wide enough for bone and metal",
    foreground=Scheme("above", {"level": -500.0}),  # half way from air to water
    words=("CT", "CBCT", "HU", "LDCT", "NCCT", "CTA"),
    background=-1024.0,
    floor=-1024.0,  # the lowest that scanners store; air is about -1000
    window=Scheme("fixed", {"low": -1024.0, "high": 3071.0}),
    generation_window=Scheme("fixed", {"low": -1000.0, "high": 1000.0}),  # as published for PRDiT
    ratios=False,
    lowest=Lowest(certain=-500.0, doubtful=-200.0, because="in Hounsfield units, air is about -1000"),
    dtype=np.int16,
    metric_ranges=SYNTHRAD_RANGES,
    rim=3,
    dicom_modality="CT",
    dicom_class="CTImageStorage",
)

PET = Kind(
    name="pet",
    units="SUV",
    meaning="activity differs by orders of magnitude between scans",
    source=Scheme("maximum", {"percentile": 99.99}),
    source_reason="each scan is divided by its own P99.99 and is not clipped",
    foreground=Scheme("of_peak", {"share": 0.02}),
    words=("PET", "PT", "SUV", "NAC", "SPECT"),
    parts=("PET",),
    true_zero=True,
    floor=0.0,
    scale_varies=True,
    rim=1,
    dicom_modality="PT",
    dicom_class="PositronEmissionTomographyImageStorage",
)

MR = Kind(
    name="mr",
    units="arbitrary units",
    meaning="MR units are arbitrary",
    source=Scheme("percentiles", {"low": 0.5, "high": 99.5}),
    source_reason="the P0.5 and P99.5 of each scan's foreground are mapped to -1 and 1",
    foreground=Scheme("of_span", {"share": 0.10}),
    one_scale=False,
    contrast_varies=True,
    rim=2,
    dicom_modality="MR",
    dicom_class="MRImageStorage",
)

KINDS: Registry[Kind] = Registry("kind", {kind.name: kind for kind in (CT, PET, MR)})
