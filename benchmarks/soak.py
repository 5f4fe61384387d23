"""Does a long run stay healthy? Many steps of a training, and many predictions in one process.

    python -m benchmarks.soak [--steps 10000] [--predictions 500] [--folder FOLDER]

On Linux. Volumes and network are tiny, so that it is the program around them that is tried: loader processes,
checkpoints, curves, pictures. Memory, open files and threads are read at twenty moments of each; from a quarter of the
way on (caches are full) none of them may grow. Memory that grows by more than GROWTH of itself counts.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

import nndiff
from nndiff.cli import plan_and_preprocess
from nndiff.imaging import io
from nndiff.training.report import Report
from nndiff.words.files import write_json
from nndiff.words.text_table import text_table
from nndiff.words.volume import Grid, Volume

GROWTH = 0.05  # of memory, from the first moment that counts to the last: the allocator's noise
MOMENTS, FIRST = 20, 5  # moments of a trial, and the first that counts
DATASET, SHAPE, SPACING = "Dataset001_Soak", (12, 16, 16), (2.0, 2.0, 2.0)
TINY = (
    "patch_size=[8,8,8]",
    "batch_size=1",
    "network.width=4",
    "network.blocks=1",
    "network.multipliers=[1]",
    "network.kernels=[[3,3,3]]",
    "network.strides=[[1,1,1]]",
    "network.head_width=4",
)


@dataclass(frozen=True)
class Health:
    megabytes: float
    files: int
    threads: int

    @classmethod
    def now(cls) -> Health:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, files, len(os.listdir("/proc/self/task")))


def write_dataset(folder: Path, cases: int = 3) -> None:
    """Write noisy smooth volumes with their truth; the first is the held-out one too."""
    rng = np.random.default_rng(0)
    for case in range(cases):
        truth = gaussian_filter(rng.random(SHAPE), 2) * 100
        for side, array in (("images", truth + 2 * rng.standard_normal(SHAPE)), ("targets", truth)):
            volume = Volume(array[None].astype(np.float32), Grid(SHAPE, SPACING, (0.0, 0.0, 0.0)))
            for part in ("Tr", "Ts") if case == 0 else ("Tr",):
                io.write(volume, folder / f"{side}{part}" / f"case_{case}_0000.nii.gz")
    names = {"channel_names": {"0": "PET"}, "target_names": {"0": "PET"}, "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", names)


def grown(seen: Sequence[Health]) -> list[str]:
    """Return what has grown between the first moments that count and as many last ones, in words.

    Files come and go, as loader processes pass volumes on: the fewest at the end are compared with the most before.
    """
    before, after = seen[FIRST : 2 * FIRST], seen[-FIRST:]
    found = []
    most, least = before[0].megabytes, after[-1].megabytes
    if least > (1 + GROWTH) * most:
        found.append(f"memory from {most:.0f} to {least:.0f} MB")
    for name in ("files", "threads"):
        most, least = max(getattr(h, name) for h in before), min(getattr(h, name) for h in after)
        if least > most:
            found.append(f"{name} from {most} to {least}")
    return found


def trained(folder: Path, steps: int, fold: str = "all") -> list[Health]:
    """Train a fold for so many steps, in so many epochs as there are moments, and return its health at each."""
    seen: list[Health] = []
    tell = Report.tell

    def told(*words: object) -> None:
        tell(*words)  # type: ignore[arg-type]
        seen.append(Health.now())

    Report.tell = told  # type: ignore[method-assign]
    try:
        nndiff.train(
            "1",
            "bridge",
            fold,
            settings=[*TINY, f"training_steps={steps}"],
            device="cpu",
            workers=1,
            preprocessed=folder / "preprocessed",
            results=folder / "results",
        )
    finally:
        Report.tell = tell  # type: ignore[method-assign]
    return seen


def predicted(folder: Path, times: int) -> Iterator[Health]:
    """Predict one scan so many times, and yield the health at each moment."""
    model = folder / "results" / DATASET / "bridge"
    for i in range(times):
        nndiff.predict(folder / "raw" / DATASET / "imagesTs", folder / "out", model, quiet=True)
        if (i + 1) % max(1, times // MOMENTS) == 0:
            yield Health.now()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--predictions", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=None)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        write_dataset(folder / "raw" / DATASET)
        roots = ["--raw", str(folder / "raw"), "--preprocessed", str(folder / "preprocessed"), "-np", "0"]
        if plan_and_preprocess.main(["-d", "1", "-c", "bridge", *roots]):
            return 1
        trials: dict[str, Callable[[], list[Health]]] = {
            f"{arguments.steps} steps": lambda: trained(folder, arguments.steps),
            f"{arguments.predictions} predictions": lambda: list(predicted(folder, arguments.predictions)),
        }
        failed = False
        for name, trial in trials.items():
            seen = trial()
            lines = [["moment", "MB", "files", "threads"]]
            lines += [[str(i), f"{h.megabytes:.0f}", str(h.files), str(h.threads)] for i, h in enumerate(seen, 1)]
            print(f"\n{name}\n{text_table(lines)}")
            for what in (worse := grown(seen)):
                print(f"GREW: {what}")
            failed = failed or bool(worse)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
