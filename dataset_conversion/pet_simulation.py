"""Simulate the PET counts of a real patient: the PET gives the activity, the CT the attenuation.

    x    = Gaussian * SUV               a clinical PET is a noisy reconstruction: smoothed, it serves as the activity
    mu   = a · (HU + 1000) + b          at 511 keV, one line below a break point and one above; without a CT, water
    ybar = s · exp(-A mu) · A x + scatter and randoms           y ~ Poisson(ybar); low dose: each count kept or not

The scanner is that of the demo, with as many angles as a slice needs. The images are reconstructions of y, before and
after thinning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from dataset_conversion.square import into, squared
from nndiff.demo.scanner import FWHM, Scanner, acquire
from nndiff.imaging.crop import foreground
from nndiff.imaging.io import Header
from nndiff.imaging.masks import mask
from nndiff.imaging.register import laid
from nndiff.words.kind import PET
from nndiff.words.volume import Box, FloatArray, Grid, Mask, Volume

# Carney et al., Med Phys 33, 2006, 120 kVp: mu per mm = slope · (HU + 1000) + offset
SOFT_SLOPE = 9.6e-6
BONE_SLOPE, BONE_OFFSET, BREAK = 5.10e-6, 4.71e-3, 47.0  # from BREAK upwards
AIR_HU, WATER = -1000.0, 0.0096  # per mm
LEAST_ANGLES, ANGLES_A_PIXEL = 60, 0.94
CUT_PLANES = 2  # of a side on which the body is cut; uncorrected, they are 1.6 and 1.2 times too bright
ACTIVE, CUT = 0.5, 0.1  # of the body's median: activity of the body; least share of a plane that cuts through the body
SINOGRAMS = 16  # most sinograms that a scan and its reconstructions hold in memory


@dataclass(frozen=True)
class Protocol:
    """The parameters of the scan; README.md has the table from which these values were chosen."""

    # True counts at full dose, per SUV and mL, that pass the attenuation. One mL at SUV 1 holds about 4 kBq one hour
    # after 400 MBq; in 3D mode a scanner counts about 7 of 1000 decays: this is about two minutes per bed position.
    counts: float = 3600.0
    smooth_mm: float = 5.0  # FWHM of the filter on the clinical PET: about its own resolution
    iterations: int = Scanner.iterations
    filter_mm: float = 4.0
    dose: float = 0.1  # share of the counts that the low-count scan keeps
    pixel_mm: float = 0.0  # smaller pixels are enlarged to this size; 0 keeps them


@dataclass(frozen=True, eq=False)
class Exam:
    """The images of one scan, all [Z, Y, X] on `grid` in SUV; `uncorrected` assumes no attenuation."""

    low: FloatArray
    uncorrected: FloatArray
    full: FloatArray
    noiseless: FloatArray
    grid: Grid

    def within_the_cut(self) -> Exam:
        """Return the images without the outermost planes of each side on which the slices cut through the body.

        Beyond the cut there is nothing that attenuates or scatters, so an uncorrected image is brighter there than one
        of the whole body would be.
        """
        start, stop = [0, 0, 0], list(self.grid.shape)
        for axis in (1, 2):
            body = _active(self.full, axis)
            if len(body) > 4 * CUT_PLANES:
                start[axis] += CUT_PLANES * int(body[0])
                stop[axis] -= CUT_PLANES * int(body[-1])
        box = Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        return Exam(
            low=self.low[box.slices],
            uncorrected=self.uncorrected[box.slices],
            full=self.full[box.slices],
            noiseless=self.noiseless[box.slices],
            grid=self.grid.cropped(box),
        )


def simulate(pet: Volume, ct: Volume | None, protocol: Protocol, generator: np.random.Generator) -> Exam:
    """Return the images of a simulated scan of a patient: PET in SUV, CT in HU on any grid."""
    grid = _seen(pet.grid, protocol.pixel_mm)
    around, box = squared(grid)
    activity = Volume(_smoothed(pet.array[0], pet.grid, protocol.smooth_mm)[None], pet.grid)
    mu = Volume(_attenuating(pet, ct)[None], pet.grid)
    if grid != pet.grid:  # both are smooth at the scale of the new pixels
        mu = Volume(laid(Volume(_smoothed(mu.array[0], pet.grid, protocol.pixel_mm)[None], pet.grid), grid)[None], grid)
        activity = Volume(laid(activity, grid)[None], grid)
    x, mu_x = (into(volume.array[0], around, box) for volume in (activity, mu))
    scanner = scanner_for(around.shape[2], around.spacing[2], protocol)
    counts = protocol.counts * surviving_ml(scanner, x, mu_x, around)
    expected = scanner.expected(x, mu_x, counts / around.shape[0])
    low, uncorrected, full = acquire(scanner, expected, around, protocol.dose, generator)
    low, uncorrected, full, noiseless = (
        image[box.slices] for image in (low, uncorrected, full, scanner.reconstruct(expected, around))
    )
    return Exam(low, uncorrected, full, noiseless, grid)


def covered(pet: Volume, ct: Volume) -> Box:
    """Return the box of the PET without those planes at its ends that are active although the CT shows nothing there.

    Simulated without attenuation, such a plane would be up to twice as bright as its neighbour in an uncorrected image.
    The CT may end before the PET, or hold one fill value in its outermost planes, because it was resampled.
    """
    shown = np.zeros_like(ct.array)
    box = _varying(ct.array[0])
    shown[(0, *box.slices)] = 1.0
    same = ct.grid.difference(pet.grid) is None
    reached = (shown[0] if same else laid(Volume(shown, ct.grid), pet.grid)) > 0.5
    ends = [_ends(_planes(reached, axis), _active(pet.array[0], axis)) for axis in range(3)]
    (a, b), (c, d), (e, f) = ends
    return Box((a, c, e), (b, d, f))


def _varying(array: FloatArray) -> Box:
    """Return the box without planes of a single value at its ends."""
    ends = []
    for axis in range(3):
        varies = np.array([plane.min() < plane.max() for plane in np.moveaxis(array, axis, 0)])
        ends.append(_ends(varies, np.ones_like(varies)))
    (a, b), (c, d), (e, f) = ends
    return Box((a, c, e), (b, d, f))


def _planes(mask: Mask, axis: int) -> Mask:
    """Return for each plane along an axis whether any of its voxels is True."""
    return np.array([plane.any() for plane in np.moveaxis(mask, axis, 0)])


def _active(image: FloatArray, axis: int) -> Mask:
    """Return for each plane along an axis whether the body covers a part of it, rather than its blurred rim."""
    level = ACTIVE * float(np.median(image[foreground(image, PET)]))
    return np.array([(plane > level).mean() > CUT for plane in np.moveaxis(image, axis, 0)])


def _ends(kept: Mask, matter: Mask) -> tuple[int, int]:
    """Return the range from the first to the last plane that is kept; an end none of whose planes matter is left."""
    if not kept.any():
        return 0, len(kept)
    first, last = int(kept.argmax()), len(kept) - int(kept[::-1].argmax())
    return first if matter[:first].any() else 0, last if matter[last:].any() else len(kept)


def scanner_for(pixels: int, pixel_mm: float, protocol: Protocol) -> Scanner:
    """Return a scanner with nearly as many angles as pixels; with fewer, streaks appear far from the centre."""
    subsets = Scanner.subsets
    angles = max(LEAST_ANGLES, subsets * round(ANGLES_A_PIXEL * pixels / subsets))
    return Scanner(pixels, pixel_mm, angles, subsets, protocol.iterations, protocol.filter_mm)


def bytes_needed(header: Header, protocol: Protocol) -> int:
    """Return the memory that the simulation of a PET with this header needs."""
    axes = {letter in "SI": i for i, letter in enumerate(header.layout[::-1])}  # True: along the slices
    slices = header.shape[axes[True]]
    side, pixel = max(
        (n * mm, mm) for i, (n, mm) in enumerate(zip(header.shape, header.spacing, strict=True)) if i != axes[True]
    )
    scanner = scanner_for(_ceil(side / max(pixel, protocol.pixel_mm)), pixel, protocol)
    projector = 3 * 12 * 2 * scanner.pixels**2 * scanner.angles  # A, its subsets, and these transposed
    return 10**8 + projector + SINOGRAMS * 8 * scanner.angles * scanner.bins * slices


def _attenuating(pet: Volume, ct: Volume | None) -> FloatArray:
    """Return mu per mm on the grid of the PET."""
    if ct is None:
        return mask(pet.array[0], PET, pet.grid.spacing, "body")[0] * np.float32(WATER)
    if ct.grid.difference(pet.grid) is None:
        return attenuation(ct.array[0])
    blurred = _smoothed(ct.array[0] - AIR_HU, ct.grid, min(pet.grid.spacing)) + AIR_HU
    return attenuation(laid(Volume(blurred[None], ct.grid), pet.grid, AIR_HU))


def _seen(grid: Grid, pixel_mm: float) -> Grid:
    """Return a grid with the same slices and centre, and with pixels of at least `pixel_mm`."""
    (z, y, x), (dz, dy, dx) = grid.shape, grid.spacing
    if max(dy, dx) >= pixel_mm:
        return grid
    shape = (z, _ceil(y * dy / pixel_mm), _ceil(x * dx / pixel_mm))
    first = (0.0, *((n - 1) / 2 - (m - 1) / 2 * pixel_mm / d for n, m, d in ((y, shape[1], dy), (x, shape[2], dx))))
    return grid.moved(first, shape, (dz, pixel_mm, pixel_mm))


def attenuation(hu: FloatArray) -> FloatArray:
    """Return the attenuation at 511 keV per mm: of mixtures of air and water below the break point, of bone above."""
    above_air = hu.astype(np.float64) + 1000
    mu = np.where(hu < BREAK, SOFT_SLOPE * above_air, BONE_SLOPE * above_air + BONE_OFFSET)
    return np.maximum(mu, 0).astype(np.float32)


def _smoothed(suv: FloatArray, grid: Grid, fwhm_mm: float) -> FloatArray:
    sigma = [fwhm_mm / FWHM / spacing for spacing in grid.spacing]
    smooth: FloatArray = ndimage.gaussian_filter(suv, sigma, mode="nearest")
    return np.maximum(smooth, 0)


def _ceil(value: float) -> int:
    return int(np.ceil(value - 1e-6))


def surviving_ml(scanner: Scanner, activity: FloatArray, mu: FloatArray, grid: Grid) -> float:
    """Return the SUV · mL that pass the attenuation, as the mean over the angles."""
    slices, _, _ = grid.shape
    suv_mm = slices / scanner.expected(activity, mu, 1.0).sensitivity  # at one count per slice: slices / sum of lines
    return suv_mm / scanner.angles * scanner.pixel_mm * grid.spacing[0] / 1000
