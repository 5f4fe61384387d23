"""Simulate a cone-beam CT from a CT of the same patient, per slice, with parallel beams instead of a cone.

    mu   = mu_water · (1 + HU / 1000)                     at the beam's mean energy
    I    = I0 · (exp(-A mu) + scatter)                    scatter: primaries · path, spread widely over the detector
    y    ~ Poisson(I)                                     measured within `field_mm`; beyond it, lines are extrapolated
    CBCT = (Aᵀ ramp * -log(y / I0)) in HU                 filtered back-projection; outside the field there is air

Few counts cause noise and streaks, scatter darkens the centre (cupping) and weakens edges, and the small detector
truncates the body and causes a bright rim. Angles are projected, measured and back-projected one at a time, so the
memory is a few volumes and the time is linear in the number of slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from dataset_conversion.square import into, squared
from nndiff.demo.scanner import Scanner
from nndiff.words.volume import FloatArray, Floats, Grid, Mask, Volume

WATER = 0.0206  # mu per mm at 60 keV
AIR, HIGHEST = -1000.0, 3071.0  # HU
RIM_MM = 60.0  # distance beyond the detector at which the body is assumed to end
FEWEST = 0.5  # counts: replaces 0 counts, which have no logarithm


@dataclass(frozen=True)
class Beam:
    """The acquisition parameters of a CBCT."""

    photons: float = 2e4  # that reach a bin of 1 mm² without a patient, at each angle
    angles: int = 300
    scatter: float = 0.02  # share of the primaries per attenuation length (a fall to 1/e) that remains after correction
    spread_mm: float = 60.0  # of scatter, sigma
    field_mm: float = 450.0  # width that the detector measures, at the patient
    cutoff: float = 0.8  # of the filter, as a share of the Nyquist frequency


def simulate(ct: Volume, beam: Beam, generator: np.random.Generator) -> FloatArray:
    """Return a simulated CBCT [Z, Y, X] in HU on the grid of the CT."""
    around, box = squared(ct.grid)
    density = into(np.maximum(ct.array[0] - AIR, 0), around, box) / -AIR  # of water, 0 in air
    scanner = Scanner(around.shape[2], around.spacing[2], beam.angles)
    mu = np.ascontiguousarray(density.reshape(len(density), -1).T * np.float32(WATER))  # [pixel, Z]
    response, made = ramp(scanner.bins, scanner.pixel_mm, beam.cutoff), np.zeros_like(mu)
    for theta in np.arange(beam.angles) * np.pi / beam.angles:
        shadow = scanner.shadow(theta).astype(np.float32)
        counts = generator.poisson(expected(shadow @ mu, around, beam))
        lines = -np.log(np.maximum(counts, FEWEST) / per_bin(around, beam))
        lines = continued(lines, scanner, beam)
        filtered = np.fft.irfft(np.fft.rfft(lines, len(response) * 2 - 2, axis=0) * response[:, None], axis=0)
        made += shadow.T @ filtered[: scanner.bins].astype(np.float32)
    made *= np.pi / beam.angles / scanner.pixel_mm
    hu = np.clip((made.T.reshape(around.shape) / WATER - 1) * -AIR, AIR, HIGHEST)
    hu[:, ~inside(around, beam)] = AIR
    return np.ascontiguousarray(hu[box.slices], dtype=np.float32)


def per_bin(grid: Grid, beam: Beam) -> float:
    """Return the photons that reach a bin of one slice without a patient."""
    return beam.photons * grid.spacing[0] * grid.spacing[2]


def expected(paths: FloatArray, grid: Grid, beam: Beam) -> Floats:
    """Return the mean counts [bin, Z] of line integrals of attenuation `paths`, with scatter."""
    primary = np.exp(-paths.astype(np.float64))
    sigma = beam.spread_mm / grid.spacing[2], beam.spread_mm / grid.spacing[0]
    scattered = ndimage.gaussian_filter(primary * paths, sigma, mode=("constant", "nearest"))
    counts: Floats = per_bin(grid, beam) * (primary + beam.scatter * scattered)
    return counts


def ramp(bins: int, bin_mm: float, cutoff: float) -> Floats:
    """Return the filter of back-projection at the frequencies of a real transform, long enough to avoid wrap-around."""
    length = 1 << int(np.ceil(np.log2(2 * bins)))
    n = np.fft.fftfreq(length, 1 / length)
    odd = n % 2 == 1
    kernel = np.zeros(length)
    kernel[0] = 1 / (4 * bin_mm**2)
    kernel[odd] = -1 / (np.pi * n[odd] * bin_mm) ** 2
    frequency = np.fft.rfftfreq(length) * 2 / cutoff
    window = np.where(frequency < 1, 0.5 + 0.5 * np.cos(np.pi * frequency), 0)
    response: Floats = np.fft.rfft(kernel).real * window * bin_mm
    return response


def continued(lines: Floats, scanner: Scanner, beam: Beam) -> Floats:
    """Return the lines with an extrapolation beyond the detector, where they fall to 0 like the edge of a cylinder.

    An abrupt end would be reconstructed as a bright rim.
    """
    beyond = np.abs(np.arange(scanner.bins) - (scanner.bins - 1) / 2) - beam.field_mm / 2 / scanner.pixel_mm
    seen = np.flatnonzero(beyond <= 0)
    nearest = np.clip(np.arange(scanner.bins), seen[0], seen[-1])
    left = np.sqrt(np.clip(1 - (np.maximum(beyond, 0) * scanner.pixel_mm / RIM_MM) ** 2, 0, None))
    whole: Floats = lines[nearest] * left[:, None]
    return whole


def inside(grid: Grid, beam: Beam) -> Mask:
    """Return the mask of the field of view: [Y, X]."""
    axis = (np.arange(grid.shape[2]) - (grid.shape[2] - 1) / 2) * grid.spacing[2]
    return np.asarray(np.add.outer(axis**2, axis**2) <= (beam.field_mm / 2) ** 2)
