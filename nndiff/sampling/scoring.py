"""The score of a translated volume: one number that rewards neither blur nor noise.

    score = PSNR + 20·SSIM - w·|10·log10(HF)|        in dB: 0.01 of SSIM counts as 0.2 dB

HF is the power of the estimate at high frequencies divided by that of the truth. w is 0 where training chooses the best
checkpoint; where tuning chooses a sampler, its objective sets w.
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
LEAST_HF = 1e-3  # smaller ratios count as this one


@dataclass(frozen=True)
class Figures:
    """The metrics of one volume: means over the channels, in network units."""

    psnr: float
    ssim: float
    mae: float
    hf: float  # nan if it was not requested

    def score(self, texture: float = 0.0) -> float:
        plain = self.psnr + SSIM_IN_DB * self.ssim
        return plain - texture * abs(10 * math.log10(max(self.hf, LEAST_HF))) if texture else plain


def bounds_of(channel: Channel, truth: FloatArray) -> tuple[float, float]:
    """Return the value range for PSNR and SSIM, in network units: a fixed window, else the range of the truth."""
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
