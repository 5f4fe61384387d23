"""A volume and its position in space.

Arrays are [C, Z, Y, X]; every triple is in the same order (z, y, x). Positions are in millimetres in the patient's LPS
frame:

    position(index) = origin + direction · (spacing ⊙ index)          direction's column k = unit vector of array axis k

In memory a volume is *canonical*: axis 0 points to the head (S), axis 1 to the back (P), axis 2 to the left (L), as
nearly as its axes allow. `Layout` records the axes of the file, so that a volume is written to exactly the position of
its source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
FloatArray = npt.NDArray[np.float32]  # volumes
Floats = npt.NDArray[np.float64]  # intermediate results
Mask = npt.NDArray[np.bool_]
Range = tuple[float, float]  # the lowest and the highest intensity

POSITION_TOLERANCE = 1e-2  # of the smallest voxel edge: the most that corners of two equal grids may differ
SPACING_TOLERANCE = 1e-3  # relative


@dataclass(frozen=True)
class Box:
    """A cuboid of voxels: start inclusive, stop exclusive."""

    start: Triple
    stop: Triple

    @property
    def shape(self) -> Triple:
        a, b, c = (stop - start for start, stop in zip(self.start, self.stop, strict=True))
        return a, b, c

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        a, b, c = (slice(start, stop) for start, stop in zip(self.start, self.stop, strict=True))
        return a, b, c


@dataclass(frozen=True)
class Grid:
    """The geometry of a volume without its values: shape, spacing, origin and direction."""

    shape: Triple  # voxels along z, y, x
    spacing: Spacing  # mm along z, y, x
    origin: Spacing  # mm (L, P, S) of voxel (0, 0, 0)'s centre
    direction: tuple[float, ...] = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)  # 3x3, row by row

    @property
    def matrix(self) -> Floats:
        return np.array(self.direction, dtype=np.float64).reshape(3, 3)

    @property
    def extent_mm(self) -> Spacing:
        a, b, c = (n * s for n, s in zip(self.shape, self.spacing, strict=True))
        return a, b, c

    def position(self, index: tuple[float, ...]) -> Floats:
        offset: Floats = self.matrix @ (np.array(self.spacing) * np.array(index))
        return np.array(self.origin) + offset

    def moved(self, index: tuple[float, ...], shape: Triple, spacing: Spacing | None = None) -> Grid:
        """Return the grid whose voxel (0, 0, 0) lies at `index` of this one."""
        x, y, z = (float(value) for value in self.position(index))
        return replace(self, origin=(x, y, z), shape=shape, spacing=spacing or self.spacing)

    def cropped(self, box: Box) -> Grid:
        return self.moved(box.start, box.shape)

    def resampled(self, shape: Triple) -> Grid:
        """Return a grid of another shape over the same physical extent: outer faces coincide, not outer centres."""
        a, b, c = (n * s / m for n, s, m in zip(self.shape, self.spacing, shape, strict=True))
        shift = tuple((new / old - 1) / 2 for new, old in zip((a, b, c), self.spacing, strict=True))
        return self.moved(shift, shape, (a, b, c))

    def difference(self, other: Grid) -> str | None:
        """Return a description of how two grids differ, or None if they are equal within the tolerances."""
        if self.shape != other.shape:
            return f"shape {other.shape} instead of {self.shape}"
        if not np.allclose(self.spacing, other.spacing, rtol=SPACING_TOLERANCE, atol=0):
            return f"spacing {_short(other.spacing)} instead of {_short(self.spacing)} mm"
        corners = [(0, 0, 0), tuple(n - 1 for n in self.shape), (self.shape[0] - 1, 0, 0), (0, self.shape[1] - 1, 0)]
        gap = max(float(np.linalg.norm(self.position(corner) - other.position(corner))) for corner in corners)
        if gap <= POSITION_TOLERANCE * min(self.spacing):
            return None
        if not np.allclose(self.direction, other.direction, atol=1e-3):
            return f"direction {_short(other.direction)} instead of {_short(self.direction)}"
        if np.linalg.norm(np.subtract(self.origin, other.origin)) > POSITION_TOLERANCE * min(self.spacing):
            return f"origin {_short(other.origin)} instead of {_short(self.origin)} mm ({gap:.3g} mm apart)"
        word = "direction" if np.allclose(self.spacing, other.spacing, rtol=1e-6, atol=0) else "spacing"
        pair = [_short(getattr(grid, word)) for grid in (other, self)]
        return f"{word} {pair[0]} instead of {pair[1]}, which adds up to {gap:.3g} mm at the far corner"


@dataclass(frozen=True)
class Layout:
    """How a file stores a canonical volume: canonical axis k is the file's `axes[k]`, reversed if `flips[k]`."""

    axes: Triple
    flips: tuple[bool, bool, bool]
    grid: Grid  # the grid of the file, kept exactly


@dataclass(frozen=True, eq=False)
class Volume:
    array: FloatArray  # [C, Z, Y, X]
    grid: Grid
    layout: Layout | None = None  # None: the file is written in canonical axes

    def __post_init__(self) -> None:
        assert self.array.ndim == 4, self.array.shape
        assert self.array.shape[1:] == self.grid.shape, (self.array.shape, self.grid.shape)

    @property
    def channels(self) -> int:
        return int(self.array.shape[0])

    @property
    def spacing(self) -> Spacing:
        return self.grid.spacing


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.6g}" for value in values) + ")"
