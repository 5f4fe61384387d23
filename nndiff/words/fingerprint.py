"""The contents of fingerprint.json: measurements of a raw dataset, per case and pooled. Every triple is (z, y, x)."""

from __future__ import annotations

from dataclasses import dataclass, field

from nndiff.words.volume import Spacing, Triple


@dataclass(frozen=True)
class ChannelStatistics:
    """Intensities of one channel, in the file's units. Percentiles, mean and std are taken over the foreground."""

    minimum: float
    maximum: float
    peak: float  # P99.99 of the whole volume, by which PET is normalised
    mean: float
    std: float
    percentiles: dict[str, float]  # "0.5" … "99.5"
    foreground: float  # share of the volume


@dataclass(frozen=True)
class Link:
    """The relation of one source channel to one target channel, over the union of their foregrounds."""

    correlation: float
    source_mean: float
    source_std: float
    target_mean: float
    target_std: float
    noise_share: float  # share of the difference's power that is noise; the rest is structure
    rmse: float  # in normalised units, each side normalised by the default of its kind
    matched_step: int  # of 1000: the step at which the diffusion noise equals that rmse


Curve = tuple[tuple[float, float], ...]  # (level, share) from the lowest level to the highest


@dataclass(frozen=True)
class CaseFingerprint:
    name: str
    group: str
    shape: Triple
    spacing: Spacing
    cropped_shape: Triple
    layout: str  # the file's own axes, fastest first, e.g. LPS
    source: tuple[ChannelStatistics, ...]
    target: tuple[ChannelStatistics, ...]
    links: tuple[tuple[Link, ...], ...]  # [target channel][source channel]
    # per target channel, the rms of what the sources leave open, in the file's units, measured while the case was held
    # out; None: generation, less than two patients, or a fingerprint of an older version
    open_rms: tuple[float, ...] | None = None
    # per target channel, the rms of white noise with a finest band as strong as the target's, in the file's units;
    # None: generation, or a fingerprint of an older version
    grain: tuple[float, ...] | None = None
    # per source channel, mean and std over the box around the body, air included, in the file's units; None:
    # generation, or a fingerprint of an older version
    moments: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class Fingerprint:
    dataset: str
    task: str  # translation | generation
    channel_names: tuple[str, ...]
    target_names: tuple[str, ...]
    file_ending: str
    pooled_source: tuple[ChannelStatistics, ...]
    pooled_target: tuple[ChannelStatistics, ...]
    cases: tuple[CaseFingerprint, ...]
    # [target channel][source channel]: what the sources leave open where that source has this local mean, over the rms
    # in the foreground; levels are normalised by the default of their kind. Empty where open_rms is None
    open_curves: tuple[tuple[Curve, ...], ...] = ()
    versions: dict[str, str] = field(default_factory=dict)  # of the software that made it
