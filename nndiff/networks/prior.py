"""The prior: what is known of an image before training, and the estimates that follow from it.

    x0 = r + C⁻¹·z,  z_k ~ N(0, S_k)      x_t = a·x0 + sigma·eps      v_k² = a²·S_k + sigma²      d = C·(x_t - a·r)

    u  = r + C⁻¹·(a·S/v²·d)               x̂0 = u + m(u, t) + e·F           e² = ρ²(t) · mean of S·sigma²/v²
    ε̂  = (x_t - a·u - a·m)/sigma - h·F'    = C⁻¹·(sigma/v²·d) - a/sigma·m - h·F'         h = e·a/sigma

C is the orthonormal cosine transform of the volume: images are alike at all places but not at all frequencies, and the
transform continues them at their border by a mirror. u is the best linear estimate (the Wiener filter). m(u, t), the
mean of x0 - u among voxels of equal u, makes it the best function of u: it knows, for example, that a voxel of a CT is
air or tissue and hardly ever in between. e and h are the rms errors that remain, so that F and F' have unit variance at
every t (EDM, Karras et al. 2022, Eq. 7). At t = 1, where x_t has no signal (a = 0), x̂0 = r + e·F, and ε̂ is exact.

    r = mean + slope · local mean of the source

Generation has no source: r is the mean training volume. Translation has no mean volume: r is the best linear function
of the source. All of these numbers are measured in the training cases before the first step (training/prior.py) and
stored with the weights, together with the process, because prediction must not depend on anything else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiff.networks.lean import channels
from nndiff.words.volume import Triple

LEVELS = 1001  # times at which a and sigma are stored; between them they are interpolated, with an error of 3e-7
LOCAL = 3  # voxels per axis of the local mean of the source
TIMES, VALUES = 21, 65  # of the table of m: equal steps of t from 0 to 1, and of u over the range of the targets
FAINT = 1e-6  # the smallest e² by which an error is divided: rounding must not be learned
SMALLEST = 1e-6  # of sigma, where m is 0
LEAST = 1e-6  # the smallest S: a spread of 1 HU where [-1, 1] are ±1000 HU


@dataclass(frozen=True, eq=False)
class Known:
    """The estimates at one time before training, and the rms of their errors."""

    x0: Tensor  # [B, C, Z, Y, X]
    eps: Tensor  # [B, C, Z, Y, X], times the scale of the process
    error_x0: Tensor  # [B, C, 1, 1, 1]
    error_eps: Tensor  # [B, C, 1, 1, 1]

    def completed(self, output: Tensor) -> Tensor:
        """Return x̂0 and scale·ε̂, [B, 2C, Z, Y, X], for the network's outputs F and F'."""
        f, g = output.float().chunk(2, dim=1)
        return torch.cat([self.x0 + self.error_x0 * f, self.eps - self.error_eps * g], dim=1)


class Prior(nn.Module):
    """The prior of one network."""

    mean: Tensor  # [1, C, Z, Y, X], or [1, C, 1, 1, 1]
    slope: Tensor  # [1, C, 1, 1, 1]
    variance: Tensor  # [1, C, Z, Y, X]: S
    levels: Tensor  # [3, LEVELS]: a, sigma and scale at equal steps of t from 0 to 1
    curves: Tensor  # [TIMES, C, VALUES]: m; 0 at t = 0 and at t = 1
    limits: Tensor  # [2, C]: the lowest and the highest u of the curves
    ratio: Tensor  # [TIMES, C]: ρ, the error of u + m as a share of the error that is expected of u

    def __init__(self, targets: int, shape: Triple, anchors: tuple[int, ...] = ()):
        super().__init__()
        self.anchors = anchors  # the channel of the condition whose local mean each target follows; (): none
        self.register_buffer("mean", torch.zeros(1, targets, *((1, 1, 1) if anchors else shape)))
        self.register_buffer("slope", torch.zeros(1, targets, 1, 1, 1))
        self.register_buffer("variance", torch.ones(1, targets, *shape))
        self.register_buffer("curves", torch.zeros(TIMES, targets, VALUES))
        self.register_buffer("limits", torch.tensor([[-1.0], [1.0]]).expand(2, targets).clone())
        self.register_buffer("ratio", torch.ones(TIMES, targets))
        angle = torch.linspace(0, math.pi / 2, LEVELS)  # until it is told otherwise: the published process
        self.register_buffer("levels", torch.stack([angle.cos(), angle.sin() / 2, torch.full_like(angle, 0.5)]))

    @torch.no_grad()
    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor | None) -> Known:
        with torch.autocast(x_t.device.type, enabled=False):
            a, sigma, scale = self.at(t)  # [B, 1, 1, 1, 1] each
            r, s = self.reference(x_t, condition), self.spectrum(x_t.shape[2:])
            power = a**2 * s + sigma**2  # [B, C, Z, Y, X]
            d = cosines(x_t.float() - a * r)
            u = r + cosines(a * s / power * d, inverse=True)
            m = self.mended(u, t)
            eps = cosines(sigma / power * d, inverse=True) - a / sigma.clamp_min(SMALLEST) * m
            share = self.share(t, s / power)
            return Known(u + m, scale * eps, sigma * share, scale * a * share)

    @torch.no_grad()
    def weights(self, t: Tensor, shape: Sequence[int]) -> Tensor:
        """Return 1/e² for the errors of x̂0 and 1/h² for those of scale·ε̂, [B, 2C, 1, 1, 1]: weights of a loss.

        In units of the errors before training every t counts alike. Without weights, nearly all of the variance of the
        gradient comes from t near 1, where e is large and little can be learned.
        """
        (a, sigma, scale), s = self.at(t), self.spectrum(shape)
        share = self.share(t, s / (a**2 * s + sigma**2))
        return torch.cat([sigma * share, scale * a * share], dim=1).square().clamp_min(FAINT).reciprocal()

    def share(self, t: Tensor, left: Tensor) -> Tensor:
        """Return e/sigma = h/a, [B, C, 1, 1, 1].  left: S/v², [B, C, Z, Y, X]."""
        return spread(t, self.ratio)[..., None, None, None] * left.mean(dim=(2, 3, 4), keepdim=True).sqrt()

    def spectrum(self, shape: Sequence[int]) -> Tensor:  # [1, C, *shape]
        return resized(self.variance, shape).clamp_min(LEAST)

    def mended(self, u: Tensor, t: Tensor) -> Tensor:
        """Return m(u, t), [B, C, Z, Y, X]."""
        curves, (low, high) = spread(t, self.curves), self.limits[:, None, :, None]  # [B, C, VALUES], [1, C, 1] each
        place = ((u.flatten(2) - low) / (high - low)).clamp(0, 1) * (VALUES - 1)  # [B, C, N]
        below = place.floor().clamp(max=VALUES - 2).long()
        return torch.lerp(curves.gather(2, below), curves.gather(2, below + 1), place - below).view_as(u)

    def reference(self, x_t: Tensor, condition: Tensor | None) -> Tensor:
        """Return r, which broadcasts to [B, C, Z, Y, X]."""
        if condition is None or not self.anchors:
            return resized(self.mean, x_t.shape[2:])
        return self.mean + self.slope * self.local(condition)

    def local(self, condition: Tensor) -> Tensor:  # [B, sources, Z, Y, X] → [B, C, Z, Y, X]
        """Return the local mean of the source that each target follows."""
        source = channels(condition, self.anchors).float()
        return F.avg_pool3d(source, LOCAL, stride=1, padding=LOCAL // 2, count_include_pad=False)

    def at(self, t: Tensor) -> tuple[Tensor, ...]:  # [B] → [B, 1, 1, 1, 1] each
        """Return a, sigma and scale at t."""
        return spread(t, self.levels.T)[..., None, None, None, None].unbind(1)


def spread(t: Tensor, table: Tensor) -> Tensor:  # [B], [N, …] → [B, …]
    """Return the rows of a table at the times t; its rows stand for equal steps of t from 0 to 1."""
    place = t.to(table).clamp(0, 1) * (len(table) - 1)
    below = place.floor().clamp(max=len(table) - 2).long()
    weight = (place - below)[(..., *[None] * (table.ndim - 1))]
    return torch.lerp(table[below], table[below + 1], weight)


def cosines(x: Tensor, inverse: bool = False) -> Tensor:
    """Return the orthonormal cosine transform (DCT-II) along the three axes of a volume, or its inverse."""
    for axis in (2, 3, 4):
        basis = waves(x.shape[axis], x.device, x.dtype)  # [frequency, place]
        x = torch.tensordot(x, basis, dims=([axis], [0 if inverse else 1])).movedim(-1, axis)
    return x


def waves(n: int, device: torch.device, dtype: torch.dtype) -> Tensor:  # [n, n]
    """Return the cosines of 0 to n - 1 half turns over an axis of n voxels, each of unit norm."""
    places = torch.arange(n, device=device, dtype=dtype)
    basis = torch.cos(math.pi / n * places[:, None] * (places + 0.5)) * math.sqrt(2 / n)
    basis[0] *= math.sqrt(0.5)
    return basis


def resized(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the volume with another number of voxels: a spectrum has the same values at equal shares of the axes."""
    size = tuple(shape)
    return volume if tuple(volume.shape[2:]) == size else F.interpolate(volume, size, mode="trilinear")
