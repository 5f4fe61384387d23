"""Figures: curves over steps, slices of volumes side by side, and quality against time. They need no display."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nndiff.words.volume import FloatArray, Spacing

DPI = 110
BRIGHTEST = 99.7  # percentile of a volume that is shown as white
INK, SOFT, ACCENT = "#1b1b1f", "#8a8a93", "#0b6e99"


@dataclass(frozen=True)
class Curve:
    """One panel of a figure: a curve over steps."""

    title: str
    x: Sequence[float]
    y: Sequence[float]
    log: bool = False
    limits: tuple[float, float] | None = None
    reference: tuple[str, Sequence[float]] | None = None  # name and values of a dashed curve
    marks: tuple[int, ...] = ()  # positions on x of vertical dotted lines


def curves(path: Path, panels: Sequence[Curve], title: str) -> None:
    columns = 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained", dpi=DPI)
    figure.suptitle(title, color=INK)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.plot(panel.x, panel.y, color=ACCENT, marker="o", markersize=2.5, linewidth=1.4)
        if panel.reference is not None:
            name, values = panel.reference
            marker = "_" if len(panel.x) == 1 else ""  # a line of one point is none
            axes.plot(
                panel.x, values, color=SOFT, linestyle="--", linewidth=1.2, marker=marker, markersize=24, label=name
            )
            axes.legend(frameon=False, fontsize=8)
        for mark in panel.marks:
            axes.axvline(mark, color=SOFT, linestyle=":", linewidth=1.2)
        if panel.log and min(panel.y) > 0:
            axes.set_yscale("log")
        if panel.limits is not None:
            axes.set_ylim(*panel.limits)
        axes.set_title(panel.title, fontsize=10, color=INK)
        axes.set_xlabel("step", fontsize=8, color=SOFT)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.tick_params(which="both", labelsize=8, colors=SOFT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.2)
    figure.savefig(path, format="png")


def slices(
    path: Path,
    volumes: Sequence[tuple[str, FloatArray]],  # name and [Z, Y, X]; the last one sets the grey scale
    error: FloatArray | None,
    title: str,
    spacing: Spacing = (1.0, 1.0, 1.0),
    other_units: Sequence[str] = (),  # names of volumes whose values are in other units: each has its own grey scale
) -> None:
    """Draw slices through the brightest part of the last volume, with voxels at their true proportions.

    Each row is a plane (axial, coronal, sagittal) and each column a volume; the last column is `error`, if given.
    """
    truth = volumes[-1][1]
    centre = _centre(truth)
    low, high = _window(truth)
    columns = [
        (name, array, "gray", *(_window(array) if name in other_units else (low, high))) for name, array in volumes
    ]
    if error is not None:
        most = max(1e-9, (high - low) / 4)
        columns.append((f"error, ±{most:.2g}", error, "RdBu_r", -most, most))
    heights = [_plane(truth, axis, centre).shape[0] * _rest(spacing, axis)[0] for axis in range(3)]
    widths = [_plane(truth, axis, centre).shape[1] * _rest(spacing, axis)[1] for axis in range(3)]
    ratios = [height / width for height, width in zip(heights, widths, strict=True)]
    figure = Figure(figsize=(2.6 * len(columns), 2.6 * sum(ratios) + 0.8), layout="constrained", dpi=DPI)
    figure.suptitle(title, fontsize=11, color=INK)
    grid = figure.add_gridspec(3, len(columns), height_ratios=ratios)
    for column, (name, array, colours, darkest, brightest) in enumerate(columns):
        for axis in range(3):
            axes = figure.add_subplot(grid[axis, column])
            rows_mm, columns_mm = _rest(spacing, axis)
            image = _plane(array, axis, centre)
            axes.imshow(image, cmap=colours, vmin=darkest, vmax=brightest, aspect=rows_mm / columns_mm)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if axis == 0:
                axes.set_title(name, fontsize=10, color=INK)
    figure.savefig(path, format="png")


def _window(array: FloatArray) -> tuple[float, float]:
    """Return the values that are drawn black and white."""
    return float(np.percentile(array, 0.3)), float(np.percentile(array, BRIGHTEST))


def _centre(truth: FloatArray) -> tuple[int, int, int]:
    """Return the median position of the brightest hundredth of the voxels: lesions and organs rather than air."""
    positions = np.argwhere(truth >= np.percentile(truth, 99))
    z, y, x = (int(value) for value in np.median(positions, axis=0))
    return z, y, x


def _plane(array: FloatArray, axis: int, centre: tuple[int, int, int]) -> FloatArray:
    """Return one slice in radiological orientation: feet at the bottom, front of the body at the top."""
    image: FloatArray = np.take(array, centre[axis], axis)
    return image if axis == 0 else image[::-1]


def _rest(spacing: Spacing, axis: int) -> tuple[float, float]:
    """Return the pixel size of the plane in mm: (down, across)."""
    down, across = (spacing[i] for i in range(3) if i != axis)
    return down, across


@dataclass(frozen=True)
class Point:
    """One sampler in the figure of quality against time."""

    label: str  # empty: no label
    x: float
    y: float
    chosen: bool = False
    in_front: bool = False  # whether it is on the Pareto front


def tradeoff(path: Path, points: Sequence[Point], x_title: str, y_title: str, title: str) -> None:
    """Draw y over x (logarithmic), with the chosen point filled and the Pareto front connected by a line."""
    figure = Figure(figsize=(9.5, 5.5), layout="constrained", dpi=DPI)
    axes = figure.add_subplot()
    axes.scatter([p.x for p in points], [p.y for p in points], s=26, facecolors="none", edgecolors=SOFT)
    front = sorted((p for p in points if p.in_front), key=lambda p: p.x)
    axes.plot([p.x for p in front], [p.y for p in front], color=ACCENT, linewidth=1.2, alpha=0.5)
    for i, point in enumerate(sorted((p for p in points if p.label), key=lambda p: p.x)):
        axes.annotate(
            point.label,
            (point.x, point.y),
            xytext=(6, -12 if i % 2 else 7),
            textcoords="offset points",
            fontsize=8,
            color=INK if point.chosen else SOFT,
            weight="bold" if point.chosen else "normal",
        )
    chosen = [p for p in points if p.chosen]
    axes.scatter([p.x for p in chosen], [p.y for p in chosen], s=70, color=ACCENT, zorder=3)
    axes.set_xscale("log")
    heights = [p.y for p in points]
    best = max(heights)
    lowest = max(min(heights), best - 4 * max(1.0, best - sorted(heights)[len(heights) // 2]))
    axes.set_ylim(lowest - 0.5, best + 0.15 * (best - lowest) + 0.5)  # points far below would flatten the others
    axes.set_xlabel(x_title, color=SOFT)
    axes.set_ylabel(y_title, color=SOFT)
    axes.set_title(title, fontsize=11, color=INK)
    axes.tick_params(which="both", labelsize=8, colors=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    axes.margins(x=0.18)
    figure.savefig(path, format="png")
