"""Two images of one body, of any kinds, laid over one another by a rigid motion; and whether that can be trusted.

    moving ─ motion that maximises mutual information (Mattes 2003), from coarse to fine ─▶ on the fixed image's grid

The search begins where the headers put both, and ends there too unless it finds something clearly better. It is
doubted, and whoever called decides, if the images share next to nothing, little of them overlaps, or the motion is
larger than a patient makes between two scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK

from nndiff.volume import FloatArray, Volume

sitk: Any = SimpleITK

BINS, LOOKED_AT, SEED = 48, 200_000, 1  # of the metric: bins of a histogram, voxels that are looked at
DIGITS = 5  # of the motion, radians and mm: threads sum in any order, and the same pair shall give the same motion
LEVELS = ((4, 2.0), (2, 1.0), (1, 0.0))  # shrunk by, smoothed by (voxels)
FARTHEST_MM, FARTHEST_DEGREES, LEAST_OVERLAP = 40.0, 25.0, 0.5
LEAST_GAIN = (
    0.01  # of normalised mutual information: real T1 and FLAIR that lay right gained 0.007 by turning 1.6 degrees
)
LEAST_SHARED = 1.02  # normalised mutual information: 1 is nothing in common


@dataclass(frozen=True, eq=False)
class Registered:
    volume: Volume  # the moving image on the fixed one's grid
    shift_mm: float
    degrees: float
    before: float  # normalised mutual information where the headers put it
    after: float
    overlap: float  # share of the fixed grid that the moving image covers
    doubt: str  # why not to trust it; empty where there is no reason


def register(fixed: Volume, moving: Volume, outside: float = 0.0) -> Registered:
    """Both of one channel; `outside`: what the moving image has where it does not reach."""
    still, other = _image(fixed), _image(moving)
    transform = sitk.Euler3DTransform()
    transform.SetCenter(still.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in still.GetSize()]))
    rest = sitk.Euler3DTransform(transform)
    before = shared(*_overlapping(still, other, rest, outside)[:2])
    method = _method(min(1.0, LOOKED_AT / fixed.array[0].size))
    method.SetInitialTransform(transform, inPlace=True)
    said = ""
    try:
        method.Execute(still, other)
    except RuntimeError as error:
        said = f"the search failed: {str(error).strip().splitlines()[-1]}"
    transform.SetParameters([round(value, DIGITS) for value in transform.GetParameters()])
    first, second, overlap, laid = _overlapping(still, other, transform, outside)
    after = shared(first, second)
    if after < before + LEAST_GAIN and not said:
        transform, after = rest, before
        _, _, overlap, laid = _overlapping(still, other, transform, outside)
    shift = float(np.linalg.norm(transform.GetTranslation()))
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    degrees = float(np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1))))
    doubt = said or _doubt(shift, degrees, after, overlap)
    return Registered(Volume(laid[None], fixed.grid, fixed.layout), shift, degrees, before, after, overlap, doubt)


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


def _overlapping(still: Any, other: Any, transform: Any, outside: float) -> tuple[FloatArray, FloatArray, float, Any]:
    """Voxels that both have, the share of them, and the moving image as it then lies."""
    laid = sitk.GetArrayFromImage(sitk.Resample(other, still, transform, sitk.sitkBSpline, outside, sitk.sitkFloat32))
    ones = sitk.Image(other.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(other)
    inside = sitk.GetArrayFromImage(sitk.Resample(ones, still, transform, sitk.sitkNearestNeighbor, 0)) > 0
    return sitk.GetArrayFromImage(still)[inside], laid[inside], float(inside.mean()), laid


def _doubt(shift: float, degrees: float, after: float, overlap: float) -> str:
    if shift > FARTHEST_MM or degrees > FARTHEST_DEGREES:
        return f"a motion of {shift:.0f} mm and {degrees:.0f} degrees"
    if overlap < LEAST_OVERLAP:
        return f"the images share {overlap:.0%} of the space"
    if after < LEAST_SHARED:
        return f"they have next to nothing in common (normalised mutual information {after:.3f})"
    return ""


def _image(volume: Volume) -> Any:
    grid = volume.grid
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array[0], dtype=np.float32))
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.matrix[:, ::-1].ravel().tolist())
    return image
