"""One number for one translated volume, so that neither blur nor noise wins.

    score = PSNR + 20·SSIM - w·|10·log10(HF)|        in dB: a hundredth of SSIM counts as a fifth of a decibel

HF is the estimate's power at high frequencies over the truth's; w is 0 where "best" is chosen while training, and what
an objective says where a sampler is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nndiff.metrics import image
from nndiff.plans.channels import Channel
from nndiff.words.volume import FloatArray, Mask

SSIM_IN_DB = 20.0
LEAST_HF = 1e-3  # a ratio below counts as this


@dataclass(frozen=True)
class Figures:
    """Means over the channels, in network units."""

    psnr: float
    ssim: float
    mae: float
    hf: float  # nan where it was not asked for

    def score(self, texture: float = 0.0) -> float:
        plain = self.psnr + SSIM_IN_DB * self.ssim
        return plain - texture * abs(10 * math.log10(max(self.hf, LEAST_HF))) if texture else plain


def bounds_of(channel: Channel, truth: FloatArray) -> tuple[float, float]:
    """Return PSNR's and SSIM's range in network units: the window where values are absolute, else the truth's own."""
    if channel.kind.absolute:
        return channel.normalization.options.get("onto_low", -1.0), channel.normalization.options.get("onto_high", 1.0)
    return float(truth.min()), float(truth.max())


def compare(
    estimate: FloatArray,
    target: FloatArray,
    bounds: Sequence[tuple[float, float]],
    mask: Mask | None,
    texture: bool = False,
) -> Figures:
    rows = [
        (
            image.psnr(e, t, b, mask),
            image.ssim(e, t, b, mask),
            image.mae(e, t, mask),
            image.high_frequency_ratio(e, t, mask) if texture else math.nan,
        )
        for e, t, b in zip(estimate, target, bounds, strict=True)
    ]
    psnr, ssim, mae, hf = (float(value) for value in np.mean(rows, axis=0))
    return Figures(psnr, ssim, mae, hf)
