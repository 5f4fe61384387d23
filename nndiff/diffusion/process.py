"""One family for every process:  x_t = a(t)·x0 + b(t)·y + sigma(t)·eps,  t from 0 (the target) to 1.

    ddpm     a = sqrt(abar)   b = 0   sigma = sqrt(1 - abar)          variance preserving, linear beta (Ho et al. 2020)
    bridge   a = 1 - t        b = t   sigma = 2·gamma·sqrt(t(1 - t))  starts at y itself, exactly (PPDM)

A row is a class with `coefficients`; everything else follows from the triple.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nndiff.registry import Registry


class Process:
    """A row of the family. Coefficients broadcast over t's shape and are computed in double precision."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raise NotImplementedError

    def sample(self, x0: Tensor, y: Tensor | None, t: Tensor, eps: Tensor) -> Tensor:
        """Draw x_t given x0 and y.  x0, y, eps: [B, C, Z, Y, X]; t: [B]."""
        a, b, sigma = (per_volume(coefficient, x0) for coefficient in self.coefficients(t))
        x_t = a * x0 + sigma * eps
        return x_t if y is None else x_t + b * y


class DDPM(Process):
    """abar_k = prod (1 - beta_i) at t = k/T, log-linear between steps."""

    def __init__(self, steps: float = 1000, beta_first: float = 1e-4, beta_last: float = 2e-2):
        self.steps = int(steps)
        betas = torch.linspace(beta_first, beta_last, self.steps, dtype=torch.float64)
        self.log_abar = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)])  # [T + 1]

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        table = self.log_abar.to(t.device)
        position = t.to(torch.float64) * self.steps
        below = position.floor().clamp(0, self.steps - 1).long()
        log_abar = torch.lerp(table[below], table[below + 1], position - below)
        return (log_abar / 2).exp(), torch.zeros_like(log_abar), (-torch.expm1(log_abar)).sqrt()

    def matched_step(self, noise_to_signal: float) -> int:
        """The smallest step whose sigma/a reaches `noise_to_signal`: where the process is as noisy as that."""
        ratio = torch.expm1(-self.log_abar).sqrt()  # sqrt((1 - abar)/abar), rising from 0
        return int(torch.searchsorted(ratio, noise_to_signal).clamp(1, self.steps))


class Bridge(Process):
    """x_t walks straight from y to x0; gamma sets the noise in between, none at either end."""

    def __init__(self, gamma: float = 0.1):
        self.gamma = gamma

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = t.to(torch.float64)
        return 1 - t, t, 2 * self.gamma * (t * (1 - t)).clamp_min(0).sqrt()


def per_volume(coefficient: Tensor, volume: Tensor) -> Tensor:
    """[B] → [B, 1, 1, 1, 1] in the volume's dtype: the one place where a coefficient meets a volume."""
    return coefficient.to(volume.dtype).reshape(-1, *[1] * (volume.ndim - 1))


def noise_ratio(process: Process, t: float) -> float:
    """sigma/a at t: the noise-to-signal ratio that the process has reached."""
    a, _, sigma = process.coefficients(torch.tensor(t, dtype=torch.float64))
    return float(sigma / a) if a > 0 else math.inf


PROCESSES: Registry[type[Process]] = Registry("process", {"ddpm": DDPM, "bridge": Bridge})
