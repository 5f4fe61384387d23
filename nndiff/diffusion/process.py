"""Diffusion processes as one family:  x_t = a(t)·x0 + b(t)·y + sigma(t)·eps,  t from 0 (the target) to 1.

    ddpm       a = sqrt(abar)       b = 0             sigma = sqrt(1 - abar)           linear beta (Ho et al. 2020)
    bridge     a = 1 - t            b = t             sigma = 2·gamma·sqrt(t(1 - t))   from the source itself (PPDM)
    i2sb       a = s̄²/(s² + s̄²)     b = s²/(s² + s̄²)  sigma = s·s̄/sqrt(s² + s̄²)        symmetric beta (Liu et al. 2023)
    rddm       a = 1 - Ā            b = Ā             sigma = B̄                        Ā = 1 - (1-t)², B̄ = B̄_T·t
    rectified  a = 1 - t            b = 0             sigma = t
    trig       a = cos(πt/2)        b = 0             sigma = sigma_eps·sin(πt/2)      PRDiT

Each process is a class that defines `shape`, which returns a(t), b(t) and sigma(t)/scale, and the number `scale`.
Everything else follows from these. It stays finite as scale → 0, because the update only uses ratios of sigma/scale.

All processes share one reverse update. From t to s < t with an estimate x̂0,

    e_t = x_t - a_t·x̂0 - b_t·y          v = eta²·sigma_s²·(1 - c²·sigma_s²/sigma_t²),  c = a_t/a_s
    x_s = a_s·x̂0 + b_s·y + sqrt(sigma_s² - v)/sigma_t · e_t + sqrt(v)·z

eta = 1 is the ancestral step and eta = 0 the deterministic one. Every v in between preserves the marginals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from nndiff.words.registry import Registry

BISECTIONS = 60  # halvings of the interval of times


@dataclass(frozen=True)
class Update:
    """The coefficients of the reverse update from t to s: x_s = a·x̂0 + b·y + ratio·e_t + noise·z."""

    a: float
    b: float
    ratio: float
    noise: float


class Process:
    """The base class of every process. Coefficients accept t of any shape and are computed in double precision."""

    scale: float = 1.0
    discrete: int | None = None  # the number of steps where training draws only these times; None: any time

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (a, b, sigma / scale) at t."""
        raise NotImplementedError

    def forgetting(self, a_t: float, a_s: float) -> float:
        """Return c of the update: the factor by which the forward process multiplies x_s on the way to x_t."""
        return a_t / a_s if a_s > 0 else 0.0

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, sigma = self.shape(t.to(torch.float64))
        return a, b, self.scale * sigma

    def at(self, t: float) -> tuple[float, float, float]:
        a, b, sigma = self.coefficients(torch.tensor(t, dtype=torch.float64))
        return float(a), float(b), float(sigma)

    def ratio(self, t: float) -> float:
        """Return sigma/a at t, the noise-to-signal ratio; infinite where a = 0."""
        a, _, sigma = self.at(t)
        return sigma / a if a > 0 else math.inf

    @property
    def from_source(self) -> bool:
        """Return whether the process starts at the source itself, as a bridge does."""
        return self.at(1.0)[1] > 0

    def sample(self, x0: Tensor, y: Tensor | None, t: Tensor, eps: Tensor) -> Tensor:
        """Draw x_t given x0 and y.  x0, y, eps: [B, C, Z, Y, X]; t: [B]."""
        a, b, sigma = (per_volume(coefficient, x0) for coefficient in self.coefficients(t))
        x_t = a * x0 + sigma * eps
        return x_t if y is None else x_t + b * y

    def update(self, t: float, s: float, eta: float) -> Update:
        """Return the coefficients of the step from t down to s.

        Where sigma_t = 0 (the start of a bridge), fresh noise is drawn. Where sigma_s = 0, the step ends at x̂0.
        """
        a_t, _, k_t = (float(value) for value in self.shape(torch.tensor(t, dtype=torch.float64)))
        a_s, b_s, k_s = (float(value) for value in self.shape(torch.tensor(s, dtype=torch.float64)))
        if k_t == 0:
            return Update(a_s, b_s, 0.0, self.scale * k_s)
        c = self.forgetting(a_t, a_s)
        v = eta**2 * k_s**2 * max(0.0, 1 - c**2 * k_s**2 / k_t**2)
        return Update(a_s, b_s, math.sqrt(max(0.0, k_s**2 - v)) / k_t, self.scale * math.sqrt(v))

    def time_of_ratio(self, ratio: float) -> float:
        """Return the time at which sigma/a equals `ratio`, by bisection; 1 if sigma/a stays below it."""
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            a, _, sigma = self.at(middle)
            low, high = (middle, high) if sigma < ratio * a else (low, middle)
        return high

    def matched_step(self, noise_to_signal: float, steps: int = 1000) -> int:
        """Return the first of `steps` equal steps in t at which sigma/a reaches `noise_to_signal`."""
        a, _, sigma = self.coefficients(torch.arange(steps + 1, dtype=torch.float64) / steps)
        return int(torch.searchsorted(sigma / a, noise_to_signal).clamp(1, steps))


class DDPM(Process):
    """The DDPM process: abar_k = prod (1 - beta_i) at t = k/T, log-linear between steps."""

    def __init__(self, steps: float = 1000, beta_first: float = 1e-4, beta_last: float = 2e-2):
        self.steps = self.discrete = int(steps)
        betas = torch.linspace(beta_first, beta_last, self.steps, dtype=torch.float64)
        self.log_abar: tuple[float, ...] = (0.0, *torch.log1p(-betas).cumsum(0).tolist())  # [T + 1]

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table = constant(self.log_abar, t)
        position = t * self.steps
        below = position.floor().clamp(0, self.steps - 1).long()
        log_abar = torch.lerp(table[below], table[below + 1], position - below)
        return (log_abar / 2).exp(), torch.zeros_like(log_abar), (-torch.expm1(log_abar)).sqrt()


class Bridge(Process):
    """The bridge: a straight line from y to x0. gamma sets the noise between them; there is none at either end."""

    def __init__(self, gamma: float = 0.1):
        self.scale = 2 * gamma

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 - t, t, (t * (1 - t)).clamp_min(0).sqrt()

    def time_of_ratio(self, ratio: float) -> float:
        """Return the time at which sigma/a = scale·sqrt(t/(1 - t)) equals `ratio`, in closed form."""
        return ratio**2 / (ratio**2 + self.scale**2)


class I2SB(Process):
    """The I2SB bridge. s² and s̄² are the integrals of beta before and after t.

    sqrt(beta) rises linearly up to t = 0.5 and falls symmetrically after it.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 0.3):
        self.low, self.high = math.sqrt(beta_min), math.sqrt(beta_max)

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before, after = self._spent(t), self._spent(1 - t)
        total = before + after
        return after / total, before / total, (before * after / total).sqrt()

    def _spent(self, t: Tensor) -> Tensor:
        """Return the integral of beta from 0 to t."""
        half = self._rising(torch.full_like(t, 0.5))
        return torch.where(t <= 0.5, self._rising(t), 2 * half - self._rising(1 - t))

    def _rising(self, t: Tensor) -> Tensor:
        slope = 2 * (self.high - self.low)
        return ((self.low + slope * t) ** 3 - self.low**3) / (3 * slope)


class RDDM(Process):
    """The RDDM process, with separate schedules: the residual is added early, the noise late (Liu et al. 2024)."""

    def __init__(self, noise: float = 0.1):
        self.scale = noise

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residual = 1 - (1 - t) ** 2
        return 1 - residual, residual, t

    def forgetting(self, a_t: float, a_s: float) -> float:
        return 1.0  # the forward chain adds to x_{t-1} and never scales it down


class Rectified(Process):
    """Rectified flow: a straight line from noise to x0."""

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return 1 - t, torch.zeros_like(t), t


class Trig(Process):
    """The trigonometric process of PRDiT."""

    def __init__(self, noise: float = 0.5):
        self.scale = noise

    def shape(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angle = t * (math.pi / 2)
        # cos(pi/2) is 6e-17 in floating point, so a = 0 at t = 1 is set exactly.
        a = torch.where(t >= 1, torch.zeros_like(t), angle.cos())
        return a, torch.zeros_like(t), angle.sin()


def per_volume(coefficient: Tensor, volume: Tensor) -> Tensor:
    """Reshape coefficients [B] → [B, 1, 1, 1, 1], in the volume's dtype and on its device, and return them.

    This is the only place where coefficients are broadcast over volumes.
    """
    return coefficient.to(volume).reshape(-1, *[1] * (volume.ndim - 1))


def constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return the values as a tensor in the dtype and on the device of `like`, which is made once for good.

    While a GPU's work is recorded (training/recorder.py), nothing can be copied from the host. In a trace, whose
    tensors have no storage, nothing is kept.
    """
    if type(like) is not Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return _copied(values, like.dtype, like.device)


@cache  # recorded work reads the copies where they lie
def _copied(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


def noise_matched_step(distance: float, steps: int = 1000) -> int:
    """Return the DDPM step whose noise-to-signal ratio matches the rms distance between source and target."""
    return DDPM(steps).matched_step(distance, steps)


PROCESSES: Registry[type[Process]] = Registry(
    "process", {"ddpm": DDPM, "bridge": Bridge, "i2sb": I2SB, "rddm": RDDM, "rectified": Rectified, "trig": Trig}
)
