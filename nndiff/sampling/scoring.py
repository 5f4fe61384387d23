"""The score of a translated volume: one number that rewards neither blur nor noise.

    score = PSNR + 20·SSIM - w·D        in dB: 0.01 of SSIM counts as 0.2 dB

D is the distance of the estimate's texture from that of the truth, over regions and frequency bands
(nndiff/metrics/texture.py), in dB. w is 0 where training chooses the best checkpoint; where tuning chooses a sampler,
its objective sets w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from nndiff.metrics import image
from nndiff.metrics.texture import Reference, Texture
from nndiff.metrics.texture import texture as texture_of
from nndiff.plans.channels import Channel
from nndiff.words.volume import FloatArray, Mask

SSIM_IN_DB = 20.0


@dataclass(frozen=True)
class Figures:
    """The metrics of one volume: means over the channels, in network units.

    Those of texture are NaN if they were not requested or cannot be measured, as in a volume without air.
    """

    psnr: float
    ssim: float
    mae: float
    hf: float = math.nan  # power at high frequencies over the truth's
    texture_db: float = math.nan  # distance from the truth's texture
    hf_body: float = math.nan  # power of the fine band in the body over the truth's
    hf_air: float = math.nan  # the same outside the body
    correlation_bias: float = math.nan  # of neighbouring voxels of the fine band in the body, estimate minus truth

    def score(self, weight: float = 0.0) -> float:
        """Return the score; `weight` is w. A texture that cannot be measured has no penalty."""
        penalty = 0.0 if math.isnan(self.texture_db) else weight * self.texture_db
        return self.psnr + SSIM_IN_DB * self.ssim - penalty


def bounds_of(channel: Channel, truth: FloatArray) -> tuple[float, float]:
    """Return the value range for PSNR and SSIM, in network units: a fixed window, else the range of the truth."""
    if channel.kind.absolute:
        return channel.normalization.options.get("onto_low", -1.0), channel.normalization.options.get("onto_high", 1.0)
    return float(truth.min()), float(truth.max())


@dataclass(frozen=True, eq=False)
class TrueTexture:
    """What the figures of texture need of one channel of a truth; all estimates of a case can share it."""

    reference: Reference
    high_power: float

    @classmethod
    def of(cls, truth: FloatArray, mask: Mask | None) -> TrueTexture:
        return cls(Reference.of(truth, mask), image.high_power(truth, mask))


def compare(
    estimate: FloatArray,
    target: FloatArray,
    bounds: Sequence[tuple[float, float]],
    mask: Mask | None,
    texture: bool = False,
    known: Sequence[TrueTexture] | None = None,
) -> Figures:
    """Return the figures of an estimate [C, Z, Y, X]; `known`: of each channel of the target, if made before."""
    pairs = list(zip(estimate, target, bounds, strict=True))
    fidelity = [(image.psnr(e, t, b, mask), image.ssim(e, t, b, mask), image.mae(e, t, mask)) for e, t, b in pairs]
    local = []
    if texture:
        truths = known or [TrueTexture.of(truth, mask) for truth in target]
        local = [_texture(e, t, mask, truth) for (e, t, _), truth in zip(pairs, truths, strict=True)]
    return Figures(*map(fmean, zip(*fidelity, strict=True)), *map(mean_of, zip(*local, strict=True)))


def mean_of(values: Sequence[float]) -> float:
    """Return the mean of the values that are defined; NaN if there are none."""
    defined = [value for value in values if not math.isnan(value)]
    return fmean(defined) if defined else math.nan


def _texture(estimate: FloatArray, truth: FloatArray, mask: Mask | None, known: TrueTexture) -> tuple[float, ...]:
    """Return the figures of texture, in the order of their fields in `Figures`."""
    found: Texture = texture_of(estimate, truth, mask, known.reference)
    local = (found.distance, found.body.fine, found.air.fine, found.correlation_bias)
    hf = image.high_frequency_ratio(estimate, truth, mask, known.high_power)
    return hf, *(math.nan if v is None else v for v in local)
