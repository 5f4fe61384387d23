"""A small PET scanner, slice by slice: what it counts and what is reconstructed from the counts.

    expected   ybar = s · (n · A x) + b      A: parallel-beam projector, n = exp(-A mu), b: scatter and randoms
    counted    y ~ Poisson(ybar)             low dose: each count kept with probability q (exact thinning)
    OSEM       x ← x / (Aᵀ_k m) · Aᵀ_k (m y_k / (m A_k x + b))      over subsets k

with m = s·n when attenuation is corrected for; uncorrected m = s and b = 0.

The projector is one sparse matrix for all slices, so the cost is linear in slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from nndiff.volume import FloatArray, Grid

Floats = npt.NDArray[np.float64]

SCATTER_SHARE = 0.3  # of the true counts, spread smoothly
SCATTER_WIDTH = 8.0  # bins
RANDOMS_SHARE = 0.1  # of the true counts, flat
FWHM = 2.3548  # of a Gaussian, in sigmas


@dataclass(frozen=True)
class Scanner:
    """Parallel beams through an n x n slice of square pixels."""

    pixels: int
    pixel_mm: float
    angles: int = 60
    subsets: int = 6
    iterations: int = 4
    filter_mm: float = 6.0  # FWHM of the filter after reconstruction

    @property
    def bins(self) -> int:
        return int(np.ceil(self.pixels * np.sqrt(2))) + 2

    @cached_property
    def projector(self) -> sparse.csr_matrix:
        """A [angle · bin, pixel] in mm: each pixel is shared between the two bins nearest to its shadow."""
        axis = (np.arange(self.pixels) - (self.pixels - 1) / 2) * self.pixel_mm
        y, x = np.meshgrid(axis, axis, indexing="ij")
        blocks = [self._shadow(x.ravel(), y.ravel(), theta) for theta in np.arange(self.angles) * np.pi / self.angles]
        return sparse.vstack(blocks, format="csr")

    def _shadow(self, x: Floats, y: Floats, theta: float) -> sparse.csr_matrix:
        position = (x * np.cos(theta) + y * np.sin(theta)) / self.pixel_mm + (self.bins - 1) / 2
        below = np.floor(position).astype(int)
        above_share = position - below
        rows = np.concatenate([below, below + 1])
        columns = np.tile(np.arange(x.size), 2)
        weights = self.pixel_mm * np.concatenate([1 - above_share, above_share])
        return sparse.csr_matrix((weights, (rows, columns)), shape=(self.bins, x.size))

    # ------------------------------------------------------------ measuring

    def scan(
        self, activity: FloatArray, attenuation: FloatArray, counts: float, generator: np.random.Generator
    ) -> Scan:
        """Counts of a whole volume [Z, Y, X]; `counts` is the mean number of true counts a slice."""
        survived = np.exp(-(self.projector @ _columns(attenuation)))  # [angle · bin, Z]
        trues = survived * (self.projector @ _columns(activity))
        sensitivity = counts * trues.shape[1] / trues.sum()
        trues *= sensitivity
        background = self._background(trues)
        return Scan(generator.poisson(trues + background).astype(np.float64), survived, background, sensitivity)

    def _background(self, trues: Floats) -> Floats:
        """What is counted but did not come straight: smooth scatter, flat randoms."""
        sinogram = trues.reshape(self.angles, self.bins, -1)
        scatter = ndimage.gaussian_filter(sinogram, (1.0, SCATTER_WIDTH, 1.0), mode=("wrap", "nearest", "nearest"))
        flat = np.broadcast_to(trues.mean(axis=0), trues.shape)
        background: Floats = SCATTER_SHARE * scatter.reshape(trues.shape) + RANDOMS_SHARE * flat
        return background

    # ------------------------------------------------------------ reconstructing

    def reconstruct(self, scan: Scan, grid: Grid, corrected: bool = True) -> FloatArray:
        """OSEM and a Gaussian: [Z, Y, X], SUV when corrected. Uncorrected knows neither attenuation nor background."""
        model = scan.sensitivity * (scan.survived if corrected else np.ones_like(scan.survived))
        background = scan.background if corrected else np.zeros_like(scan.background)
        image = np.ones((self.pixels**2, scan.counts.shape[1]))
        for subset in self._subsets * self.iterations:
            image = self._update(image, subset, scan.counts, model, background)
        volume = image.T.reshape(-1, self.pixels, self.pixels)
        sigma = [self.filter_mm / FWHM / s for s in grid.spacing]
        smooth: FloatArray = ndimage.gaussian_filter(volume, sigma, mode="nearest").astype(np.float32)
        return smooth

    @cached_property
    def _subsets(self) -> list[npt.NDArray[np.intp]]:
        rows = np.arange(self.angles * self.bins).reshape(self.angles, self.bins)
        return [rows[k :: self.subsets].ravel() for k in range(self.subsets)]

    def _update(
        self, image: Floats, rows: npt.NDArray[np.intp], counts: Floats, model: Floats, background: Floats
    ) -> Floats:
        part, m = self.projector[rows], model[rows]
        expected = m * (part @ image) + background[rows]
        ratio = np.divide(counts[rows], expected, out=np.zeros_like(expected), where=expected > 1e-12)
        sensitivity = part.T @ m
        updated: Floats = image * (part.T @ (m * ratio)) / np.maximum(sensitivity, 1e-12)
        return updated


@dataclass(frozen=True, eq=False)
class Scan:
    """What a scanner knows of one volume; all arrays [angle · bin, Z]."""

    counts: Floats
    survived: Floats
    background: Floats
    sensitivity: float

    def thinned(self, share: float, generator: np.random.Generator) -> Scan:
        """The same scan at a lower dose: every count is kept with probability `share`, so Poisson stays Poisson."""
        kept = generator.binomial(self.counts.astype(np.int64), share).astype(np.float64)
        return Scan(kept, self.survived, share * self.background, share * self.sensitivity)


def _columns(volume: FloatArray) -> Floats:
    """[Z, Y, X] → [pixel, Z]."""
    return volume.reshape(volume.shape[0], -1).T.astype(np.float64)
