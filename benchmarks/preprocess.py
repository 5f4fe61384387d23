"""Resampling by matrices against scipy and skimage, measured side by side: seconds and largest difference.

    OMP_NUM_THREADS=1 python benchmarks/preprocess.py [--quick]

Seconds are those of the processor, so that other work on the machine counts less; scipy and skimage use one thread.
Each row resamples one volume with cubic splines to another spacing; ratios are medians over the repetitions. The
difference is against scipy.ndimage's own order-3 result on the same grid, relative to the volume's range. Down-sampling
is compared without anti-aliasing, as the other two do it; nndiff's default, which anti-aliases, is timed beside it.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from skimage.transform import resize

from nndiff.imaging.resample import resample

RESULTS = Path(__file__).parent / "results" / "preprocess.csv"
CASES = {  # name: (shape, factor along each axis)
    "brain up": ((160, 192, 160), (1.5, 1.5, 1.5)),
    "PET up": ((200, 256, 256), (1.5, 1.5, 1.5)),
    "thick slices up": ((36, 320, 320), (3.0, 1.0, 1.0)),
    "CT down": ((160, 256, 256), (0.7, 0.7, 0.7)),
}
COLUMNS = ["case", "nndiff_s", "antialiased_s", "scipy_s", "skimage_s", "scipy_ratio", "skimage_ratio", "difference"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="half the size along each axis, one repetition")
    arguments = parser.parse_args()
    rows = [measure(name, shape, factor, arguments.quick) for name, (shape, factor) in CASES.items()]
    show(rows)
    if not arguments.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        with open(RESULTS, "w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    sys.exit(any(row["scipy_ratio"] < 5 or row["skimage_ratio"] < 5 or row["difference"] > 1e-4 for row in rows))


def measure(name: str, shape: tuple[int, ...], factor: tuple[float, ...], quick: bool) -> dict[str, float | str]:
    shape = tuple(n // 2 for n in shape) if quick else shape
    new = tuple(round(n * f) for n, f in zip(shape, factor, strict=True))
    volume = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape).astype(np.float32), 1.0)
    ours, antialiased, scipys, skimages = [], [], [], []
    resample(volume[None], new, antialias=False), resample(volume[None], new)  # matrices are made once per process
    for _ in range(1 if quick else 3):
        seconds, result = timed(lambda: resample(volume[None], new, antialias=False)[0])
        ours.append(seconds)
        antialiased.append(timed(lambda: resample(volume[None], new))[0])
        seconds, reference = timed(lambda: as_scipy(volume, new))
        scipys.append(seconds)
        skimages.append(timed(lambda: as_skimage(volume, new))[0])
    return {
        "case": name,
        "nndiff_s": round(statistics.median(ours), 3),
        "antialiased_s": round(statistics.median(antialiased), 3),
        "scipy_s": round(statistics.median(scipys), 2),
        "skimage_s": round(statistics.median(skimages), 2),
        "scipy_ratio": round(statistics.median(a / b for a, b in zip(scipys, ours, strict=True)), 1),
        "skimage_ratio": round(statistics.median(a / b for a, b in zip(skimages, ours, strict=True)), 1),
        "difference": float(f"{np.abs(result - reference).max() / np.ptp(volume):.1e}"),
    }


def as_scipy(volume: np.ndarray, new: tuple[int, ...]) -> np.ndarray:
    """Return scipy's result of order 3, with the outer faces aligned."""
    zoom = [m / n for n, m in zip(volume.shape, new, strict=True)]
    return ndimage.zoom(volume, zoom, order=3, mode="nearest", grid_mode=True)


def as_skimage(volume: np.ndarray, new: tuple[int, ...]) -> np.ndarray:
    """Return skimage's result, called as nnU-Net calls it for images."""
    return resize(volume, new, order=3, mode="edge", anti_aliasing=False)


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def show(rows: list[dict[str, float | str]]) -> None:
    print("  ".join(f"{name:>15}" for name in COLUMNS))
    for row in rows:
        print("  ".join(f"{row[name]!s:>15}" for name in COLUMNS))


if __name__ == "__main__":
    main()
