"""Draw the documentation's picture of the puzzle.

python -m benchmarks.pictures CASE.nii.gz       # one volume of any modality
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from nndiff.imaging import io
from nndiff.networks.puzzle import haar, puzzle
from nndiff.words.volume import FloatArray

PUZZLE = Path(__file__).parent.parent / "documentation" / "explanation" / "puzzle.png"
FACTOR = (1, 2, 2)


def main(path: Path) -> int:
    """Draw the middle slice, its four pieces, and the four bands that the Haar mix makes of them."""
    volume = io.read([path]).array[0]
    middle = volume[volume.shape[0] // 2]
    even = torch.from_numpy(middle[: middle.shape[0] // 2 * 2, : middle.shape[1] // 2 * 2].copy())
    pieces = puzzle(even[None, None, None], FACTOR)
    figure, axes = plt.subplot_mosaic("ABCFG;ADEHI", figsize=(11, 4.4), width_ratios=[2, 1, 1, 1, 1])
    limit = float(np.percentile(middle, 98))
    _draw(axes["A"], even.numpy(), f"a slice, {even.shape[0]} x {even.shape[1]}", (0, limit))
    for name, k in zip("BCDE", range(4), strict=True):
        _draw(axes[name], pieces[0, k, 0].numpy(), f"puzzle: channel {k}", (0, limit))
    for name, k in zip("FGHI", range(4), strict=True):
        limits = (0.0, 2 * limit) if k == 0 else (-limit / 2, limit / 2)
        _draw(axes[name], haar(pieces, FACTOR)[0, k, 0].numpy(), f"Haar: band {k}", limits)
    figure.tight_layout()
    figure.savefig(PUZZLE, dpi=80)
    print(f"Wrote {PUZZLE}")
    return 0


def _draw(axes: Axes, image: FloatArray, title: str, limits: tuple[float, float]) -> None:
    axes.imshow(image, cmap="gray" if limits[0] == 0 else "RdBu_r", vmin=limits[0], vmax=limits[1])
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
