"""Statistics of one case for the fingerprint: the intensities of each channel, and the relation of source and target.

**Noise or structure?** The noise in the difference d of source and target is the part that (a) local averaging removes
and (b) does not correlate with the detail of the target. With a Gaussian G of 1.5 voxels, which leaves the share KEPT
of the power of white noise,

    noise_share = (1 - |G d|² / |d|²) / (1 - KEPT) · (1 - corr²(d - G d, x - G x))

is 1 for white noise added to the target and 0 for a change of contrast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nndiff.data.prepare import fit
from nndiff.imaging.crop import foreground
from nndiff.imaging.normalize import Affine
from nndiff.words.errors import NndiffError
from nndiff.words.fingerprint import ChannelStatistics, Link
from nndiff.words.kind import Kind
from nndiff.words.volume import FloatArray, Mask, Volume

PERCENTILES = ("0.5", "1", "5", "25", "50", "75", "95", "99", "99.5")
POOLED_SAMPLES = 20_000  # voxels per case in the pooled percentiles
SMOOTHING = 1.5  # voxels
KEPT = 1 / (8 * np.pi**1.5 * SMOOTHING**3)  # share of the power of white noise that remains after that Gaussian, in 3D


def foregrounds(volume: Volume | None, kinds: Sequence[Kind]) -> list[Mask]:
    if volume is None:
        return []
    return [_never_empty(foreground(channel, kind)) for channel, kind in zip(volume.array, kinds, strict=True)]


def _never_empty(mask: Mask) -> Mask:
    return mask if mask.any() else np.ones_like(mask)


def statistics(volume: Volume | None, inside: Sequence[Mask]) -> tuple[ChannelStatistics, ...]:
    if volume is None:
        return ()
    return tuple(
        channel_statistics(channel, channel[mask], float(mask.mean()))
        for channel, mask in zip(volume.array, inside, strict=True)
    )


def channel_statistics(channel: FloatArray, values: FloatArray, share: float) -> ChannelStatistics:
    return ChannelStatistics(
        minimum=tidy(channel.min()),
        maximum=tidy(channel.max()),
        peak=tidy(np.percentile(channel, 99.99)),
        mean=tidy(values.mean(dtype=np.float64)),
        std=tidy(values.std(dtype=np.float64)),
        percentiles={
            name: tidy(value)
            for name, value in zip(PERCENTILES, np.percentile(values, [float(p) for p in PERCENTILES]), strict=True)
        },
        foreground=round(share, 4),
    )


def moments(array: FloatArray) -> tuple[tuple[float, float], ...]:
    """Return mean and standard deviation of each channel."""
    return tuple((tidy(channel.mean(dtype=np.float64)), tidy(channel.std(dtype=np.float64))) for channel in array)


def samples(volume: Volume | None, inside: Sequence[Mask]) -> FloatArray:
    """Return evenly spaced foreground voxels of each channel, the same number for every case: [C, POOLED_SAMPLES]."""
    if volume is None:
        return np.zeros((0, POOLED_SAMPLES), dtype=np.float32)
    rows = []
    for channel, mask in zip(volume.array, inside, strict=True):
        values = channel[mask]
        rows.append(values[np.linspace(0, len(values) - 1, POOLED_SAMPLES).astype(int)])
    return np.stack(rows)


# ---------------------------------------------------------------- source and target


def links(
    source: Volume | None, target: Volume, kinds: tuple[list[Kind], list[Kind]], inside: tuple[list[Mask], list[Mask]]
) -> tuple[tuple[Link, ...], ...]:
    if source is None:
        return ()
    return tuple(
        tuple(
            _link(source.array[s], target.array[t], kinds[0][s], kinds[1][t], inside[0][s] | inside[1][t])
            for s in range(source.channels)
        )
        for t in range(target.channels)
    )


def _link(source: FloatArray, target: FloatArray, source_kind: Kind, target_kind: Kind, where: Mask) -> Link:
    """Return the link of two channels, both normalised; channels of one kind share units, so they share a map."""
    source_map = default_map(source, source_kind)
    target_map = source_map if source_kind == target_kind else default_map(target, target_kind)
    y, x = source_map.forward(source), target_map.forward(target)
    difference = y[where] - x[where]
    return Link(
        correlation=tidy(_correlation(source[where], target[where])),
        source_mean=tidy(source[where].mean(dtype=np.float64)),
        source_std=tidy(source[where].std(dtype=np.float64)),
        target_mean=tidy(target[where].mean(dtype=np.float64)),
        target_std=tidy(target[where].std(dtype=np.float64)),
        noise_share=round(noise_share(y, x, where), 3),
        rmse=tidy(np.sqrt(np.square(difference, dtype=np.float64).mean())),
        matched_step=0,  # set by the fingerprint, because the diffusion process needs torch
    )


def noise_share(y: FloatArray, x: FloatArray, where: Mask) -> float:
    """Return the share of the power of y - x that is noise, by the formula above.  y, x, where: [Z, Y, X]."""
    difference = y - x
    difference = np.where(where, difference - difference[where].mean(), 0)
    power = float(np.square(difference[where], dtype=np.float64).mean())
    largest = max(float(np.abs(side[where]).max()) for side in (x, y))
    if power <= (np.finfo(np.float32).eps * largest) ** 2:  # the difference is only rounding error
        return 0.0
    smooth = ndimage.gaussian_filter(difference, SMOOTHING, mode="nearest")
    removed = 1 - float(np.square(smooth[where], dtype=np.float64).mean()) / power
    detail = x - ndimage.gaussian_filter(x, SMOOTHING, mode="nearest")
    follows = _correlation((difference - smooth)[where], detail[where])
    return float(np.clip(removed / (1 - KEPT), 0, 1) * (1 - follows**2))


def default_map(channel: FloatArray, kind: Kind) -> Affine:
    try:
        return fit(kind.source, channel, kind)
    except NndiffError:  # a constant channel, which --no-verify_dataset_integrity accepts
        return Affine(1.0, float(channel.flat[0]))


def _correlation(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    a, b = a - a.mean(dtype=np.float64), b - b.mean(dtype=np.float64)
    norm = float(np.sqrt(np.square(a, dtype=np.float64).sum() * np.square(b, dtype=np.float64).sum()))
    return float((a.astype(np.float64) * b).sum() / norm) if norm > 0 else 0.0


def tidy(value: object, digits: int = 6) -> float:
    """Return the value with few significant digits: readable, and the same on every machine."""
    return float(f"{float(value):.{digits}g}")  # type: ignore[arg-type]
