"""Predictions: what the network is trained to output, and how its output becomes an estimate of x0 and of eps.

A sampler sees only the Estimate.

x0        x̂0 = output                                       eps from x_t:  ε̂ = (x_t - a·x̂0 - b·y)/sigma
eps       x̂0 = (x_t - b·y - sigma·output)/a                 needs a > 0: not at the start of a bridge
v         v = a·eps - sigma·x0,  x̂0 = (a·(x_t - b·y) - sigma·v)/(a² + sigma²)
residual  x̂0 = y - output
x0_skip   x̂0 = w·x + (1 - w)·output,  x = (x_t - b·y)/a,  w = e²/(e² + sigma²/a²) ≤ 0.9
          the mean of two estimates of x0, weighted by their inverse squared errors. The error of x is sigma/a. The
          error of the output is assumed to be e, 0.3 of the distance between source and target. Towards the end of
          sampling x dominates, so the image changes little
both      x̂0 and scale·ε̂, concatenated on the channel axis (PRDiT). scale is that of the process, so that the squared
          errors of the two are weighted as published
fused     x̂0 = (e²·u + r²·n)/(e² + r²),  u = (x_t - b·y)/a = x0 + r·eps,  r = sigma/a
          the mean of two estimates of x0, weighted by their inverse squared errors: u, whose error is r, and the
          network's image n, whose error e the network estimates for each voxel. Noise passes where e is large and stops
          where e is small. The outputs are f and l:
              n = ȳ + w·(ū - ȳ) + 10·min(e₀, s₀)·sqrt(1 + e₀²/r²)·f        log(e/e₀) = 2·l
              w = s²/(s² + r²/27)        e₀² = g² + (s² - g²)·(1 - w)
          with ȳ and ū the means of y and u over 27 voxels, s the rms of what the source leaves open where its local
          mean is ȳ, s₀ that of the whole image, and g the grain, in proportion to s. This is what is known without a
          network: as noise falls, x_t first shows what is coarse, and e₀ falls from s to g. The network is shown
          (u - ȳ)/sqrt(d² + r²) in place of x_t, and r²/(s₀² + r²) in place of t, where d is the distance between source
          and target. So inputs and outputs keep their size at every time, and the network does not depend on the
          process (Karras et al. 2022, for s₀ alone). At t = 1 it is shown 0: by every process, that answer is the
          regression from the source
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nndiff.diffusion.process import Process, constant, per_volume
from nndiff.words.fingerprint import Curve
from nndiff.words.registry import Registry

# rms error of a trained network's output, as a share of the distance: 0.29 and 0.44 in trials on PET
ERROR_SHARE = 0.3
LEVELS = (-7.0, 4.0)  # limits of log(e/s) of a fused prediction
# Units of the two outputs: a few hundred steps of Adam must reach voxels whose error is many times s. On real PET, 600
# steps gave 0.4 dB more in one step than a unit of s.
IMAGE_UNIT, LEVEL_UNIT = 10.0, 2.0
CELL = 27  # voxels of a local mean
PLANES = 16  # computed at a time where no gradient is needed
MOST_SKIPPED = 0.9  # the largest w of x0_skip


@dataclass(frozen=True, eq=False)
class Estimate:
    """The estimates of the target and of the noise at one time."""

    x0: Tensor  # [B, C, Z, Y, X]
    eps: Tensor  # [B, C, Z, Y, X]


class Prediction:
    """The base class of every prediction: the training target, and the estimates that follow from an output.

    y is None where there is no source.
    """

    channels = 1  # network outputs per target channel
    starts_at_image = False  # whether the source's local mean is a good output before training
    tells_error = False  # whether the outputs contain the expected error of each voxel

    def __init__(
        self, distance: float = 1.0, open_part: float = 0.3, open_curve: tuple[Curve, ...] = (), grain: float = 0.0
    ):
        self.distance = distance  # rms between source and target
        self.open_part = open_part  # rms of what the source leaves open
        self.open_curve = open_curve  # per target channel, the same over open_part, by the local mean of y
        self.grain = grain  # rms of the target's finest texture; 0: not known

    def view(self, process: Process, x_t: Tensor, y: Tensor | None, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network is shown in place of x_t and t."""
        return x_t, t

    def defined(self, a: float, sigma: float) -> bool:
        """Return whether an output determines x0 at a time at which x_t = a·x0 + b·y + sigma·eps."""
        return True

    def target(self, process: Process, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        raise NotImplementedError

    def x0(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        raise NotImplementedError

    def estimate(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Estimate:
        x0 = self.x0(process, output, x_t, y, t)
        return Estimate(x0, eps_of(process, x0, x_t, y, t))


class X0(Prediction):
    """The output is the target."""

    starts_at_image = True

    def target(self, process: Process, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        return x0

    def x0(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        return output


class Eps(Prediction):
    """The output is the noise."""

    def defined(self, a: float, sigma: float) -> bool:
        return a > 0

    def target(self, process: Process, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        return eps

    def x0(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        a, b, sigma = _at(process, t, x_t)
        return (_minus_source(x_t, b, y) - sigma * output) / a


class V(Prediction):
    """The output is v = a·eps - sigma·x0."""

    def defined(self, a: float, sigma: float) -> bool:
        return a > 0 or sigma > 0

    def target(self, process: Process, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        a, _, sigma = _at(process, t, x0)
        return a * eps - sigma * x0

    def x0(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        a, b, sigma = _at(process, t, x_t)
        return (a * _minus_source(x_t, b, y) - sigma * output) / (a**2 + sigma**2)


class Residual(Prediction):
    """The output is the difference y - x0."""

    def target(self, process: Process, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        assert y is not None, "a residual needs a source"
        return y - x0

    def x0(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        assert y is not None, "a residual needs a source"
        return y - output


class X0Skip(Prediction):
    """The output is (x0 - w·x)/(1 - w): the share w of x, that is (x_t - b·y)/a, bypasses the network."""

    starts_at_image = True

    def target(self, process: Process, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        a, _, sigma = _at(process, t, x0)
        gain = self._gain(a, sigma)
        return (x0 - gain * (a * x0 + sigma * eps)) / (1 - a * gain)

    def x0(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        a, b, sigma = _at(process, t, x_t)
        gain = self._gain(a, sigma)
        return gain * _minus_source(x_t, b, y) + (1 - a * gain) * output

    def _gain(self, a: Tensor, sigma: Tensor) -> Tensor:
        """Return w/a, which stays finite where a = 0."""
        power = (ERROR_SHARE * self.distance) ** 2
        gain = power * a / (power * a**2 + sigma**2).clamp_min(1e-12)
        return torch.minimum(gain, MOST_SKIPPED / a.clamp_min(1e-12))


class Both(Prediction):
    """The output is the target and the scaled noise, side by side."""

    channels = 2

    def target(self, process: Process, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x0, process.scale * eps], dim=1)

    def x0(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        return output.chunk(2, dim=1)[0]

    def estimate(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Estimate:
        x0, noise = output.chunk(2, dim=1)
        return Estimate(x0, noise / process.scale)


@dataclass(frozen=True, eq=False)
class Weighed:
    """The pieces of a fused estimate, [B, C, Z, Y, X] each."""

    x0: Tensor
    image: Tensor  # n
    variance: Tensor  # expected squared error of x0: e²·r²/(e² + r²)


class Fused(Prediction):
    """The outputs are an image and the logarithm of its expected error, from which x̂0 is a weighted mean with u."""

    channels = 2
    tells_error = True

    def view(self, process: Process, x_t: Tensor, y: Tensor | None, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b, sigma = _at(process, t, x_t)
        size = ((a * self.distance) ** 2 + sigma**2).sqrt().clamp_min(1e-12)
        starts = per_volume(t >= 1, x_t) > 0

        def shown(x_t: Tensor, y: Tensor | None) -> Tensor:
            seen = (_minus_source(x_t, b, y) - a * _local_mean(y, x_t)) / size
            return torch.where(starts, torch.zeros_like(seen), seen)

        return _by_planes(shown, x_t, y), self._told(process, t)

    def target(self, process: Process, x0: Tensor, y: Tensor | None, eps: Tensor, t: Tensor) -> Tensor:
        a, b, sigma = _at(process, t, x0)
        base, s = self._base(process.sample(x0, y, t, eps), y, a, b, sigma)
        size = ((a * s) ** 2 + sigma**2).sqrt()
        share = torch.where(size > 0, sigma / size.clamp_min(1e-12), torch.ones_like(size))  # of the image in unit size
        output = share * (x0 - base) - s * torch.where(a > 0, a * s / size.clamp_min(1e-12), 0.0) * eps
        return torch.cat([output / self._image_unit(s), torch.zeros_like(output)], dim=1)

    def x0(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        return _by_planes(lambda x_t, y, output: self.weighed(process, output, x_t, y, t).x0, x_t, y, output)

    def variance(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
        """Return the expected squared error of x̂0, [B, C, Z, Y, X]."""
        return _by_planes(lambda x_t, y, output: self.weighed(process, output, x_t, y, t).variance, x_t, y, output)

    def weighed(self, process: Process, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Weighed:
        """Return the estimate with the image and the expected error that it was computed from."""
        a, b, sigma = _at(process, t, x_t)
        answer, level = output.chunk(2, dim=1)
        base, s = self._base(x_t, y, a, b, sigma)
        grown = torch.where(a > 0, (1 + (a * s / sigma.clamp_min(1e-12)) ** 2).sqrt(), torch.ones_like(a))
        image = base + self._image_unit(s) * grown * answer
        power = s**2 * (2 * (LEVEL_UNIT * level).clamp(*LEVELS)).exp()  # e²
        total = a**2 * power + sigma**2
        share = torch.where(total > 0, sigma**2 / total.clamp_min(1e-20), torch.ones_like(total))  # of n; 1 at t = 1
        gain = torch.where(total > 0, a * power / total.clamp_min(1e-20), torch.zeros_like(total))
        return Weighed(gain * _minus_source(x_t, b, y) + share * image, image, share * power)

    @torch.no_grad()
    def _base(self, x_t: Tensor, y: Tensor | None, a: Tensor, b: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image that the network departs from, and its usual error, [B, C, Z, Y, X] each."""
        mean = _local_mean(y, x_t)
        s = self._usual_error(mean)
        if self.grain == 0:
            return mean, s
        signal = CELL * (a * s) ** 2
        known = torch.where(a > 0, signal / (signal + sigma**2).clamp_min(1e-20), 0.0)  # of the coarse part, by x_t
        seen = _local_mean(_minus_source(x_t, b, y), x_t) / a.clamp_min(1e-12)
        return mean + known * (torch.where(a > 0, seen, mean) - mean), s * self._left(known).sqrt()

    def _left(self, known: Tensor) -> Tensor:
        """Return the share of s² that is left if x_t tells the share `known` of its coarse part."""
        fine = min(1.0, self.grain / self.open_part) ** 2
        return fine + (1 - fine) * (1 - known)

    def _usual_error(self, mean: Tensor) -> Tensor:
        """Return s of each voxel, [B, C, Z, Y, X]; `mean` is the local mean of the source."""
        if not self.open_curve:
            return torch.full_like(mean[:1, :1, :1, :1, :1], self.open_part)
        shares = [_between(curve, mean[:, c]) for c, curve in enumerate(self.open_curve)]
        return self.open_part * torch.stack(shares, dim=1)

    def _image_unit(self, s: Tensor) -> Tensor:
        """Return the unit of the image: small where little is open, but nowhere larger than that of the open part."""
        return IMAGE_UNIT * s.clamp(max=self.open_part)

    def typical_variance(self, process: Process, t: Tensor) -> Tensor:
        """Return the variance of x0 given x_t where the open part is that of the whole image, float64 [B]."""
        told = self._told(process, t)  # r²/(s² + r²)
        if self.grain == 0:
            return self.open_part**2 * told
        left = self._left(CELL * (1 - told) / (CELL * (1 - told) + told))
        return self.open_part**2 * left * told / (left * (1 - told) + told)

    def _told(self, process: Process, t: Tensor) -> Tensor:
        """Return r²/(s² + r²): 1 where a = 0."""
        a, _, sigma = process.coefficients(t)
        told = sigma**2 / ((a * self.open_part) ** 2 + sigma**2).clamp_min(1e-300)
        return torch.where(a > 0, told, torch.ones_like(told))


def _local_mean(y: Tensor | None, like: Tensor) -> Tensor:
    """Return the mean of y over 3 voxels along each axis, or 0 where there is no source."""
    if y is None:
        return torch.zeros_like(like)
    return F.avg_pool3d(F.pad(y, (1,) * 6, mode="replicate"), 3, 1)


def _between(curve: Curve, levels: Tensor) -> Tensor:
    """Return the shares of a curve at some levels: linear between its points, constant beyond them."""
    at, shares = (constant(side, levels) for side in zip(*curve, strict=True))
    if len(at) == 1:
        return shares.expand_as(levels)
    above = torch.searchsorted(at, levels.contiguous(), out_int32=True).clamp(1, len(at) - 1)
    part = ((levels - at[above - 1]) / (at[above] - at[above - 1])).clamp(0, 1)
    return torch.lerp(shares[above - 1], shares[above], part)


def eps_of(process: Process, x0: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Tensor:
    """Return the noise that x_t contains if x0 is correct; 0 where sigma is 0."""
    a, b, sigma = _at(process, t, x_t)

    def noise(x_t: Tensor, y: Tensor | None, x0: Tensor) -> Tensor:
        rest = _minus_source(x_t, b, y) - a * x0
        return torch.where(sigma > 0, rest / sigma.clamp_min(1e-12), torch.zeros_like(rest))

    return _by_planes(noise, x_t, y, x0)


def _by_planes(run: Callable[..., Tensor], x_t: Tensor, y: Tensor | None, *others: Tensor) -> Tensor:
    """Return run(x_t, y, *others), which is like x_t, and whose value at a plane depends on its neighbours at most.

    Where no gradient is needed, a few planes at a time are computed: the intermediate results of a whole body take more
    memory than all that a walk keeps.
    """
    if torch.is_grad_enabled():
        return run(x_t, y, *others)
    whole, planes = torch.empty_like(x_t), x_t.shape[2]
    for first in range(0, planes, PLANES):
        low, end, high = max(0, first - 1), min(first + PLANES, planes), min(first + PLANES + 1, planes)
        seen = [None if v is None else v[:, :, low:high] for v in (x_t, y, *others)]
        whole[:, :, first:end] = run(*seen)[:, :, first - low : end - low]
    return whole


def _at(process: Process, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    a, b, sigma = (per_volume(coefficient, like) for coefficient in process.coefficients(t))
    return a, b, sigma


def _minus_source(x_t: Tensor, b: Tensor, y: Tensor | None) -> Tensor:
    return x_t if y is None else x_t - b * y


PREDICTIONS: Registry[type[Prediction]] = Registry(
    "prediction", {"x0": X0, "eps": Eps, "v": V, "residual": Residual, "x0_skip": X0Skip, "both": Both, "fused": Fused}
)
