"""Random torsos with activity, attenuation and lesions.

A body consists of ellipsoids with soft edges. Each organ replaces the earlier values at its place:

    field ← field + w · (value - field),      w = 1 / (1 + exp(s · (|position|_organ - 1)))

so that edges are about a voxel wide, as after any reconstruction. All numbers are drawn from the given generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nndiff.words.volume import FloatArray, Floats, Grid, Mask, Spacing, Triple

SHAPE: Triple = (40, 64, 64)
SPACING: Spacing = (5.0, 6.0, 6.0)  # mm: the torso fills most of the field of view
SOFT, LUNG, BONE = 0.0096, 0.0030, 0.0150  # attenuation at 511 keV, per mm


@dataclass(frozen=True, eq=False)
class Body:
    """A simulated torso."""

    activity: FloatArray  # [Z, Y, X], SUV
    attenuation: FloatArray  # [Z, Y, X], per mm
    regions: npt.NDArray[np.uint8]  # [Z, Y, X]: lesion 1, 2, …; 0 elsewhere
    inside: Mask  # [Z, Y, X], the body
    grid: Grid

    @property
    def lesions(self) -> Mask:
        return self.regions > 0


@dataclass(frozen=True)
class Organ:
    """An ellipsoid of uniform uptake and attenuation."""

    centre: tuple[float, float, float]  # mm from the middle of the volume, z y x
    radii: tuple[float, float, float]  # mm
    uptake: float  # SUV
    attenuation: float


def random_body(generator: np.random.Generator, shape: Triple = SHAPE, spacing: Spacing = SPACING) -> Body:
    """Return a torso with organs near their anatomical positions and lesions at random positions in it."""
    z, y, x = shape
    corner = tuple(-(n - 1) / 2 * s for n, s in zip((x, y, z), (spacing[2], spacing[1], spacing[0]), strict=True))
    grid = Grid(shape, spacing, (corner[0], corner[1], corner[2]))
    millimetres = _positions(shape, spacing)
    activity, attenuation = np.zeros(shape), np.zeros(shape)
    torso, *organs = _anatomy(generator)
    for organ in (torso, *organs):
        _lay(activity, _weight(organ, millimetres, spacing), organ.uptake)
        _lay(attenuation, _weight(organ, millimetres, spacing), organ.attenuation)
    inside = _weight(torso, millimetres, spacing) > 0.5
    regions = np.zeros(shape, dtype=np.uint8)
    for label, lesion in enumerate(_lesions(generator, torso), start=1):
        weight = _weight(lesion, millimetres, spacing)
        _lay(activity, weight, lesion.uptake)
        regions[(weight > 0.5) & inside] = label  # where two lesions overlap, the later one counts
    return Body(
        activity=activity.astype(np.float32),
        attenuation=attenuation.astype(np.float32),
        regions=regions,
        inside=inside,
        grid=grid,
    )


def _anatomy(generator: np.random.Generator) -> list[Organ]:
    """Return the torso, then the organs; later organs replace earlier ones where they overlap."""
    g = generator
    height, depth, breadth = g.uniform(180, 260), g.uniform(85, 120), g.uniform(130, 170)
    lift = g.uniform(-15, 15)

    def near(a: float, b: float, c: float, jitter: float = 8.0) -> tuple[float, float, float]:
        dz, dy, dx = g.normal(0, jitter, 3)
        return a + lift + dz, b * depth + dy, c * breadth + dx

    def about(*radii: float) -> tuple[float, float, float]:
        a, b, c = (r * g.uniform(0.8, 1.2) for r in radii)
        return a, b, c

    return [
        Organ((0.0, 0.0, 0.0), (height, depth, breadth), g.uniform(0.5, 0.9), SOFT),
        Organ(near(60, -0.05, -0.42), about(70, 62, 48), g.uniform(0.25, 0.5), LUNG),
        Organ(near(60, -0.05, 0.42), about(70, 62, 45), g.uniform(0.25, 0.5), LUNG),
        Organ(near(45, -0.2, 0.12), about(38, 34, 36), g.uniform(1.2, 5.0), SOFT),  # heart
        Organ(near(-40, -0.05, -0.40), about(48, 52, 58), g.uniform(1.6, 2.6), SOFT),  # liver
        Organ(near(-30, 0.25, 0.50), about(30, 22, 18), g.uniform(1.4, 2.2), SOFT),  # spleen
        Organ(near(-75, 0.40, -0.38), about(32, 16, 16), g.uniform(2.0, 4.0), SOFT),  # kidneys
        Organ(near(-75, 0.40, 0.38), about(32, 16, 16), g.uniform(2.0, 4.0), SOFT),
        Organ((0.0, 0.62 * depth, 0.0), (height, 17.0, 17.0), g.uniform(1.0, 1.6), BONE),  # spine
    ]


def _lesions(generator: np.random.Generator, torso: Organ) -> list[Organ]:
    lesions = []
    for _ in range(int(generator.integers(3, 7))):
        direction = generator.normal(size=3)
        direction *= generator.uniform(0.2, 0.75) / np.linalg.norm(direction)
        centre = direction * np.array([90.0, torso.radii[1], torso.radii[2]])
        radius = generator.uniform(8, 16)
        a, b, c = (float(value) for value in centre)
        lesions.append(Organ((a, b, c), (radius, radius, radius), generator.uniform(4, 14), SOFT))
    return lesions


def _positions(shape: Triple, spacing: Spacing) -> list[Floats]:
    """Return the positions in mm from the middle of the volume, one broadcastable array per axis."""
    axes = [(np.arange(n, dtype=np.float64) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    return [axis.reshape([-1 if i == k else 1 for i in range(3)]) for k, axis in enumerate(axes)]


def _weight(organ: Organ, millimetres: list[Floats], spacing: Spacing) -> Floats:
    """Return [Z, Y, X]: 1 inside the ellipsoid, 0 outside, with a transition about one voxel wide."""
    scaled = [(p - c) / r for p, c, r in zip(millimetres, organ.centre, organ.radii, strict=True)]
    radius = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    sharpness = 4.0 * min(organ.radii) / max(spacing)
    weight: Floats = 1 / (1 + np.exp(np.clip(sharpness * (radius - 1), -40, 40)))
    return weight


def _lay(field: Floats, weight: Floats, value: float) -> None:
    field += weight * (value - field)
