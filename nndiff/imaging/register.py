"""Register two images of one patient, of any modalities, and judge whether the result can be trusted.

    moving ─ motion that maximises mutual information (Mattes 2003), from coarse to fine ─▶ on the fixed image's grid

The motion is rigid; if `stretched`, the search continues with an affine motion. It starts from the positions in the
headers or, if these leave too little overlap, with the centres of both images aligned. A motion is accepted only if it
raises the normalised mutual information of the two images by LEAST_GAIN. The result carries a doubt if the images have
too little mutual information, if too little of them overlaps, or if the motion is larger than that of a patient between
two scans; the caller decides what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK

from nndiff.words.volume import FloatArray, Grid, Volume

sitk: Any = SimpleITK

BINS, LOOKED_AT, SEED = 48, 200_000, 1  # of the metric: histogram bins, sampled voxels
DIGITS = 5  # of the motion (radians, mm): threads sum in any order, and rounding makes the motion reproducible
LEVELS = ((4, 2.0), (2, 1.0), (1, 0.0))  # shrunk by, smoothed by (voxels)
FARTHEST_MM, FARTHEST_DEGREES, MOST_STRETCH = 40.0, 25.0, 0.2
LEAST_OVERLAP = 0.8  # of the brighter half of the fixed image: beyond the moving image there are no measured values
LEAST_START = 0.2  # overlap: below it the headers are taken for those of two scanners, and the centres are aligned
LEAST_GAIN = 0.01  # of mutual information: real T1 and FLAIR in correct position gained 0.007 by a turn of 1.6 degrees
LEAST_SHARED = 1.02  # normalised mutual information: 1 means independent images


@dataclass(frozen=True, eq=False)
class Registered:
    volume: Volume  # the moving image on the grid of the fixed image
    shift_mm: float  # from the starting position
    degrees: float
    stretch: float  # largest relative change of length in any direction
    before: float  # normalised mutual information at the starting position
    after: float
    overlap: float  # share of the brighter half of the fixed image that the moving image covers
    doubt: str  # the reason to doubt the result; empty if there is none


def register(fixed: Volume, moving: Volume, outside: float = 0.0, stretched: bool = False) -> Registered:
    """Return the moving image registered to the fixed one; both have one channel.

    `outside` is the value of the result where the moving image does not reach.
    """
    if np.ptp(fixed.array) == 0 or np.ptp(moving.array) == 0:
        empty = np.full_like(fixed.array, outside)
        return Registered(
            volume=Volume(empty, fixed.grid, fixed.layout),
            shift_mm=0.0,
            degrees=0.0,
            stretch=0.0,
            before=1.0,
            after=1.0,
            overlap=0.0,
            doubt="one of the two images is empty",
        )
    still, other = _image(fixed), _image(moving)
    rest, lies = _beginning(still, other, outside)
    best = rest
    before = after = shared(lies.still, lies.moved)
    failed = ""
    for kind in (sitk.Euler3DTransform, sitk.AffineTransform)[: 2 if stretched else 1]:
        found, failed = _searched(still, other, _as(kind, best))
        there = _overlapping(still, other, found, outside)
        gained = shared(there.still, there.moved)
        if failed or gained >= after + LEAST_GAIN:
            best, lies, after = found, there, gained
        if failed:
            break
    shift = float(np.linalg.norm(np.subtract(best.GetTranslation(), rest.GetTranslation())))
    turned, scales, back = np.linalg.svd(np.array(best.GetMatrix()).reshape(3, 3))
    degrees = float(np.degrees(np.arccos(np.clip((np.trace(turned @ back) - 1) / 2, -1, 1))))
    stretch = float(np.abs(scales - 1).max())
    doubt = failed or _doubt(shift, degrees, stretch, after, lies.overlap)
    volume = Volume(lies.whole[None], fixed.grid, fixed.layout)
    return Registered(
        volume=volume,
        shift_mm=shift,
        degrees=degrees,
        stretch=stretch,
        before=before,
        after=after,
        overlap=lies.overlap,
        doubt=doubt,
    )


def _beginning(still: Any, other: Any, outside: float) -> tuple[Any, _Overlap]:
    """Return the starting motion and the overlap: the headers' positions, or aligned centres if they are far apart."""
    middle, others = (
        np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
        for image in (still, other)
    )
    rest = sitk.Euler3DTransform()
    rest.SetCenter(middle.tolist())
    lies = _overlapping(still, other, rest, outside)
    if lies.overlap < LEAST_START:
        rest.SetTranslation((others - middle).tolist())
        lies = _overlapping(still, other, rest, outside)
    return rest, lies


def laid(moving: Volume, grid: Grid, outside: float = 0.0) -> FloatArray:
    """Return one channel resampled linearly onto another grid, at the position of its header: [Z, Y, X]."""
    like = _image(Volume(np.zeros((1, *grid.shape), np.float32), grid))
    there = sitk.Resample(_image(moving), like, sitk.Transform(), sitk.sitkLinear, outside, sitk.sitkFloat32)
    array: FloatArray = sitk.GetArrayFromImage(there)
    return array


def _searched(still: Any, other: Any, transform: Any) -> tuple[Any, str]:
    """Return the best motion near `transform`, of its kind, and why the search failed, which is empty if it did not."""
    method = _method(min(1.0, LOOKED_AT / np.prod(still.GetSize())))
    method.SetInitialTransform(transform, inPlace=True)
    failed = ""
    try:
        method.Execute(still, other)
    except RuntimeError as error:
        failed = f"the registration failed: {str(error).strip().splitlines()[-1].rpartition(': ')[2]}"
    transform.SetParameters([round(value, DIGITS) for value in transform.GetParameters()])
    return transform, failed


def _as(kind: Any, motion: Any) -> Any:
    """Return the same motion as a transform of the given kind, which may have more parameters."""
    other = kind(3) if kind is sitk.AffineTransform else kind()
    other.SetCenter(motion.GetCenter())
    other.SetMatrix(motion.GetMatrix())
    other.SetTranslation(motion.GetTranslation())
    return other


def shared(first: FloatArray, second: FloatArray) -> float:
    """Return the normalised mutual information of two voxel lists (Studholme 1999): 1 if independent, 2 if equal."""
    if len(first) < 2:
        return 1.0
    counts, _, _ = np.histogram2d(_ranked(first), _ranked(second), BINS)
    joint = counts / counts.sum()
    together = _entropy(joint)
    return float((_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / together) if together > 0 else 1.0


def _ranked(values: FloatArray) -> FloatArray:
    """Return the values clipped to P0.5 and P99.5: outliers would leave all other values in one bin."""
    return np.clip(values, *np.percentile(values, (0.5, 99.5)))


def _entropy(shares: FloatArray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def _method(share: float) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([factor for factor, _ in LEVELS])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in LEVELS])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    return method


@dataclass(frozen=True, eq=False)
class _Overlap:
    still: FloatArray  # voxels of the fixed image that the moving image covers
    moved: FloatArray  # the moving image at these voxels
    overlap: float  # share of the brighter half of the fixed image that the moving image covers
    whole: FloatArray  # the moved image on the fixed image's grid


def _overlapping(still: Any, other: Any, transform: Any, outside: float) -> _Overlap:
    whole = sitk.GetArrayFromImage(sitk.Resample(other, still, transform, sitk.sitkBSpline, outside, sitk.sitkFloat32))
    values = sitk.GetArrayViewFromImage(other)
    whole = np.clip(whole, min(outside, float(values.min())), max(outside, float(values.max())))  # splines overshoot
    ones = sitk.Image(other.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(other)
    inside = sitk.GetArrayFromImage(sitk.Resample(ones, still, transform, sitk.sitkNearestNeighbor, 0)) > 0
    array = sitk.GetArrayFromImage(still)
    return _Overlap(array[inside], whole[inside], float(inside[array >= np.median(array)].mean()), whole)


def _doubt(shift: float, degrees: float, stretch: float, after: float, overlap: float) -> str:
    if shift > FARTHEST_MM or degrees > FARTHEST_DEGREES:
        most = f"{FARTHEST_MM:.0f} mm or {FARTHEST_DEGREES:.0f} degrees"
        return f"the registration moved the source by {shift:.0f} mm and {degrees:.0f} degrees, more than {most}"
    if stretch > MOST_STRETCH:
        return f"the registration stretched the source by {stretch:.0%}, more than {MOST_STRETCH:.0%}"
    if overlap < LEAST_OVERLAP:
        return f"the source covers {overlap:.0%} of the target, less than {LEAST_OVERLAP:.0%}"
    if after < LEAST_SHARED:
        return f"source and target hardly correspond (normalised mutual information {after:.3f})"
    return ""


def _image(volume: Volume) -> Any:
    grid = volume.grid
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array[0], dtype=np.float32))
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.matrix[:, ::-1].ravel().tolist())
    return image
