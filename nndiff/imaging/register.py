"""Two images of one body, of any kinds, laid over one another; and whether that can be trusted.

    moving ─ motion that maximises mutual information (Mattes 2003), from coarse to fine ─▶ on the fixed image's grid

A motion is rigid; asked to, the search goes on to an affine one, which also stretches. It begins where the headers put
both, or, where they put them apart, with the middles on one another; each kind of motion must share clearly more than
what was there before, or is not taken. The result is doubted, and whoever called decides, if the images share next to
nothing, little of them overlaps, or the motion is larger than a patient makes between two scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK

from nndiff.words.volume import FloatArray, Grid, Volume

sitk: Any = SimpleITK

BINS, LOOKED_AT, SEED = 48, 200_000, 1  # of the metric: bins of a histogram, voxels that are looked at
DIGITS = 5  # of the motion, radians and mm: threads sum in any order, and the same pair shall give the same motion
LEVELS = ((4, 2.0), (2, 1.0), (1, 0.0))  # shrunk by, smoothed by (voxels)
FARTHEST_MM, FARTHEST_DEGREES, MOST_STRETCH = 40.0, 25.0, 0.2
LEAST_OVERLAP = 0.8  # of the fixed image's bright half: what lies beyond is made up
LEAST_START = 0.2  # with less, headers of two scanners: the middles are laid over one another first
LEAST_GAIN = 0.01  # of what is shared: real T1 and FLAIR that lay right gained 0.007 by turning 1.6 degrees
LEAST_SHARED = 1.02  # normalised mutual information: 1 is nothing in common


@dataclass(frozen=True, eq=False)
class Registered:
    volume: Volume  # the moving image on the fixed one's grid
    shift_mm: float  # from where it began
    degrees: float
    stretch: float  # of the direction that is stretched or shrunk most
    before: float  # normalised mutual information where it began
    after: float
    overlap: float  # share of the fixed image's bright half that the moving image covers
    doubt: str  # why not to trust it; empty where there is no reason


def register(fixed: Volume, moving: Volume, outside: float = 0.0, stretched: bool = False) -> Registered:
    """Both of one channel; `outside`: what the moving image has where it does not reach."""
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
    """Where the headers put both; with the middles on one another where that is apart."""
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
    """One channel, linearly, where the headers put it on another grid: [Z, Y, X]."""
    like = _image(Volume(np.zeros((1, *grid.shape), np.float32), grid))
    there = sitk.Resample(_image(moving), like, sitk.Transform(), sitk.sitkLinear, outside, sitk.sitkFloat32)
    array: FloatArray = sitk.GetArrayFromImage(there)
    return array


def _searched(still: Any, other: Any, transform: Any) -> tuple[Any, str]:
    """The best motion of this kind near this one; why there is none."""
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
    """The same motion, of a kind that can do more."""
    other = kind(3) if kind is sitk.AffineTransform else kind()
    other.SetCenter(motion.GetCenter())
    other.SetMatrix(motion.GetMatrix())
    other.SetTranslation(motion.GetTranslation())
    return other


def shared(first: FloatArray, second: FloatArray) -> float:
    """Normalised mutual information of two lists of voxels: 1 for independent ones, 2 for the same (Studholme 1999)."""
    if len(first) < 2:
        return 1.0
    counts, _, _ = np.histogram2d(_ranked(first), _ranked(second), BINS)
    joint = counts / counts.sum()
    together = _entropy(joint)
    return float((_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / together) if together > 0 else 1.0


def _ranked(values: FloatArray) -> FloatArray:
    """Outliers would leave all else in one bin."""
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
    still: FloatArray  # voxels that both have
    moved: FloatArray
    overlap: float  # the share of them
    whole: FloatArray  # the moving image as it then lies


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
