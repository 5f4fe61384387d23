"""Random augmentations of a training pair that keep source and target consistent: one sample in, one sample out.

    mirror     all arrays of a sample, along any axis                      batchgenerators' MirrorTransform
    scale      source and target times one number, if both share a scale
    contrast   the source alone: brightness, contrast and gamma            batchgenerators' colour transforms

batchgenerators draws from numpy's global random state. The state is therefore set from the sample's own seed and
restored afterwards, so that a sample depends only on its seed, whichever process makes it. Source and target are passed
together as `data`; a float target passed as `seg` would be resampled label by label.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from batchgenerators.transforms.color_transforms import (
    BrightnessMultiplicativeTransform,
    ContrastAugmentationTransform,
    GammaTransform,
)
from batchgenerators.transforms.spatial_transforms import MirrorTransform

from nndiff.words.registry import Registry
from nndiff.words.volume import FloatArray, Mask


@dataclass(frozen=True, eq=False)
class Sample:
    source: FloatArray | None  # [C, z, y, x]
    target: FloatArray  # [C', z, y, x]
    mask: Mask | None
    inside: Mask | None = None  # False in the padding beyond the case; None if there is no padding


class Augmentation(Protocol):
    def __call__(self, sample: Sample) -> Sample: ...


@dataclass(frozen=True)
class Mirror:
    """A random reflection: each axis that is 1 is reversed with probability 1/2."""

    z: float = 0.0
    y: float = 0.0
    x: float = 0.0

    def __call__(self, sample: Sample) -> Sample:
        axes = tuple(i for i, wanted in enumerate((self.z, self.y, self.x)) if wanted)
        if not axes:
            return sample
        together = sample.target if sample.source is None else np.concatenate([sample.source, sample.target])
        batch, flags = {"data": together[None].copy()}, [f for f in (sample.mask, sample.inside) if f is not None]
        if flags:
            batch["seg"] = np.stack(flags)[None]
        turned = MirrorTransform(axes)(**batch)
        sources, seen = 0 if sample.source is None else len(sample.source), iter(turned["seg"][0] if flags else ())
        return Sample(
            source=turned["data"][0, :sources] if sources else None,
            target=turned["data"][0, sources:],
            mask=None if sample.mask is None else next(seen),
            inside=None if sample.inside is None else next(seen),
        )


@dataclass(frozen=True)
class Scale:
    """One random factor for source and target, log-uniform between `low` and `high`; zero stays zero."""

    low: float = 0.8
    high: float = 1.25

    def __call__(self, sample: Sample) -> Sample:
        factor = np.float32(np.exp(np.random.uniform(np.log(self.low), np.log(self.high))))
        source = None if sample.source is None else sample.source * factor
        return replace(sample, source=source, target=sample.target * factor)


@dataclass(frozen=True)
class Contrast:
    """Random changes of the source's brightness, contrast and gamma.

    Each is applied with `probability`, by a factor within 1 ± `strength` that is drawn per channel.
    """

    probability: float = 0.3
    strength: float = 0.15

    def __call__(self, sample: Sample) -> Sample:
        if sample.source is None:
            return sample
        around = (1 - self.strength, 1 + self.strength)
        batch = {"data": sample.source[None].copy()}
        for transform in (
            BrightnessMultiplicativeTransform(around, p_per_sample=self.probability),
            ContrastAugmentationTransform(around, p_per_sample=self.probability),
            GammaTransform(around, per_channel=True, retain_stats=True, p_per_sample=self.probability),
        ):
            batch = transform(**batch)
        return replace(sample, source=batch["data"][0].astype(np.float32, copy=False))


def augmented(rows: Sequence[Augmentation], sample: Sample, seed: Sequence[int]) -> Sample:
    """Return the sample after all augmentations in order, with every random number drawn from `seed`."""
    with _numpy_seeded(seed):
        for row in rows:
            sample = row(sample)
    return sample


@contextmanager
def _numpy_seeded(seed: Sequence[int]) -> Iterator[None]:
    before = np.random.get_state()
    np.random.seed(np.random.SeedSequence(list(seed)).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(before)


AUGMENTATIONS: Registry[type[Augmentation]] = Registry(
    "augmentation", {"mirror": Mirror, "scale": Scale, "contrast": Contrast}
)
