"""A simulated PET scanner that works slice by slice: the counts, and the image reconstructed from them.

    expected   ybar = s · (n · A x) + b      A: parallel-beam projector, n = exp(-A mu), b: scatter and randoms
    counted    y ~ Poisson(ybar)             low dose: each count kept with probability q (exact thinning)
    OSEM       x ← x / (Aᵀ_k m) · Aᵀ_k (m y_k / (m A_k x + b))      over subsets k

with m = s·n if attenuation is corrected; without correction m = s and b = 0.

The projector is one sparse matrix for all slices, so the cost is linear in the number of slices. An image reconstructed
from ybar itself has no noise; an estimate from few counts can hardly be closer to the full-count image (`ceiling`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from nndiff.metrics.image import psnr
from nndiff.words.volume import FloatArray, Floats, Grid

SCATTER_SHARE = 0.3  # scattered counts as a share of the true counts; smooth
SCATTER_WIDTH = 8.0  # bins
RANDOMS_SHARE = 0.1  # random counts as a share of the true counts; uniform over the bins
FWHM = 2.3548  # full width at half maximum of a Gaussian, in sigmas


@dataclass(frozen=True)
class Scanner:
    """A scanner with parallel beams through slices of n x n square pixels."""

    pixels: int
    pixel_mm: float
    angles: int = 60
    subsets: int = 6
    iterations: int = 4
    filter_mm: float = 8.0  # FWHM of the Gaussian filter after reconstruction

    @property
    def bins(self) -> int:
        return int(np.ceil(self.pixels * np.sqrt(2))) + 2

    @cached_property
    def projector(self) -> sparse.csr_matrix:
        """Return A, [angle · bin, pixel] in mm."""
        return sparse.vstack([self.shadow(theta) for theta in np.arange(self.angles) * np.pi / self.angles], "csr")

    def shadow(self, theta: float) -> sparse.csr_matrix:
        """Return A of one angle, [bin, pixel] in mm; each pixel is divided between the two bins nearest to it."""
        axis = (np.arange(self.pixels) - (self.pixels - 1) / 2) * self.pixel_mm
        y, x = (coordinate.ravel() for coordinate in np.meshgrid(axis, axis, indexing="ij"))
        position = (x * np.cos(theta) + y * np.sin(theta)) / self.pixel_mm + (self.bins - 1) / 2
        below = np.floor(position).astype(int)
        above_share = position - below
        rows = np.concatenate([below, below + 1])
        columns = np.tile(np.arange(position.size), 2)
        weights = self.pixel_mm * np.concatenate([1 - above_share, above_share])
        return sparse.csr_matrix((weights, (rows, columns)), shape=(self.bins, position.size))

    # ------------------------------------------------------------ measuring

    def scan(
        self, activity: FloatArray, attenuation: FloatArray, counts: float, generator: np.random.Generator
    ) -> Scan:
        """Return a scan of a whole volume [Z, Y, X]; `counts` is the mean number of true counts per slice."""
        return self.expected(activity, attenuation, counts).counted(generator)

    def expected(self, activity: FloatArray, attenuation: FloatArray, counts: float) -> Scan:
        """Return the same scan without Poisson noise: its counts are ybar in place of y."""
        survived = np.exp(-(self.projector @ _columns(attenuation)))  # [angle · bin, Z]
        trues = survived * (self.projector @ _columns(activity))
        sensitivity = counts * trues.shape[1] / trues.sum()
        trues *= sensitivity
        background = self._background(trues)
        return Scan(trues + background, survived, background, sensitivity)

    def _background(self, trues: Floats) -> Floats:
        """Return the expected background counts: smooth scatter and uniform randoms."""
        sinogram = trues.reshape(self.angles, self.bins, -1)
        scatter = ndimage.gaussian_filter(sinogram, (1.0, SCATTER_WIDTH, 1.0), mode=("wrap", "nearest", "nearest"))
        flat = np.broadcast_to(trues.mean(axis=0), trues.shape)
        background: Floats = SCATTER_SHARE * scatter.reshape(trues.shape) + RANDOMS_SHARE * flat
        return background

    # ------------------------------------------------------------ reconstructing

    def reconstruct(self, scan: Scan, grid: Grid, corrected: bool = True) -> FloatArray:
        """Return the image [Z, Y, X] by OSEM and a Gaussian filter; in SUV if corrected.

        Without correction, the reconstruction uses neither the attenuation nor the background.
        """
        model = scan.sensitivity * (scan.survived if corrected else np.ones_like(scan.survived))
        background = scan.background if corrected else np.zeros_like(scan.background)
        subsets = [
            Subset(
                project=project,
                back=back,
                counts=scan.counts[rows],
                model=model[rows],
                background=background[rows],
                sensitivity=back @ model[rows],
            )
            for rows, project, back in self._subsets
        ]
        image = np.ones((self.pixels**2, scan.counts.shape[1]))
        for subset in subsets * self.iterations:
            image = subset.update(image)
        volume = image.T.reshape(-1, self.pixels, self.pixels)
        sigma = [self.filter_mm / FWHM / s for s in grid.spacing]
        smooth: FloatArray = ndimage.gaussian_filter(volume, sigma, mode="nearest").astype(np.float32)
        return smooth

    @cached_property
    def _subsets(self) -> list[tuple[npt.NDArray[np.intp], sparse.csr_matrix, sparse.csr_matrix]]:
        """Return the rows, A_k and A_kᵀ of every subset."""
        rows = np.arange(self.angles * self.bins).reshape(self.angles, self.bins)
        each = [rows[k :: self.subsets].ravel() for k in range(self.subsets)]
        return [(rows, self.projector[rows], self.projector[rows].T.tocsr()) for rows in each]


@dataclass(frozen=True, eq=False)
class Subset:
    """The data of one subset of the angles; arrays are [angle · bin of the subset, Z]."""

    project: sparse.csr_matrix  # A_k
    back: sparse.csr_matrix  # A_kᵀ
    counts: Floats
    model: Floats  # m
    background: Floats
    sensitivity: Floats  # A_kᵀ m: [pixel, Z]

    def update(self, image: Floats) -> Floats:
        expected = self.model * (self.project @ image) + self.background
        ratio = np.divide(self.counts, expected, out=np.zeros_like(expected), where=expected > 1e-12)
        updated: Floats = image * (self.back @ (self.model * ratio)) / np.maximum(self.sensitivity, 1e-12)
        return updated


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan of one volume, with the factors that its reconstruction needs; arrays are [angle · bin, Z]."""

    counts: Floats
    survived: Floats
    background: Floats
    sensitivity: float

    def counted(self, generator: np.random.Generator) -> Scan:
        """Return a random scan whose expected counts are those of this one."""
        return replace(self, counts=generator.poisson(self.counts).astype(np.float64))

    def thinned(self, share: float, generator: np.random.Generator) -> Scan:
        """Return the scan at a lower dose: every count is kept with probability `share`, so counts stay Poisson."""
        kept = generator.binomial(self.counts.astype(np.int64), share).astype(np.float64)
        return Scan(kept, self.survived, share * self.background, share * self.sensitivity)


def acquire(
    scanner: Scanner, expected: Scan, grid: Grid, dose: float, generator: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the (low-count, low-count uncorrected, full-count) images of one scan."""
    scan = expected.counted(generator)
    low = scan.thinned(dose, generator)
    return scanner.reconstruct(low, grid), scanner.reconstruct(low, grid, False), scanner.reconstruct(scan, grid)


def ceiling(noiseless: FloatArray, full: FloatArray) -> float:
    """Return the PSNR (range 0 … maximum) of the noise-free image against the full-count one, which has noise."""
    return psnr(noiseless, full, (0.0, float(full.max())))


def _columns(volume: FloatArray) -> Floats:
    """Reshape [Z, Y, X] → [pixel, Z]."""
    return volume.reshape(volume.shape[0], -1).T.astype(np.float64)
