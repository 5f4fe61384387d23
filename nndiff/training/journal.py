"""The records of a run for its user: progress.csv, progress.png, a figure of one case, and log.txt.

Drawing takes at most a twentieth of the time of a run: where epochs are short, some are not drawn, but the last one
always is.
"""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from nndiff.checkpoint import Epoch, Run
from nndiff.pictures import Curve, curves, slices
from nndiff.training.validation import Example
from nndiff.words.files import append, atomic
from nndiff.words.telling import in_words, tell

REST = 19.0  # waiting time before the next drawing, as a multiple of the duration of the last one


class Journal:
    """The records in the folder of one fold.

    All but log.txt are rewritten from the history, so that they are complete for a resumed run too.
    """

    def __init__(self, folder: Path, quiet: bool):
        self.folder, self.quiet = folder, quiet
        self.undrawn: dict[str, Callable[[], None]] = {}
        self.resting_until = 0.0

    def say(self, line: str) -> None:
        """Print the line and append it to log.txt."""
        if self.quiet:
            return
        tell(line)
        append(self.folder / "log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")

    def write(self, history: Sequence[Epoch], run: Run, stages: Sequence[int]) -> None:
        """Write progress.csv, and draw the figures if they are due.  stages: first step of each stage but the first."""
        if self.quiet:
            return
        with atomic(self.folder / "progress.csv") as part, open(part, "w", newline="", encoding="utf-8") as stream:
            rows = [_row(epoch) for epoch in history]
            names = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(rows)
        self.undrawn["progress"] = lambda: self._progress(history, run, stages)
        last = history[-1].step == run.training_steps
        if last or time.perf_counter() >= self.resting_until:
            began = time.perf_counter()
            for draw in self.undrawn.values():
                draw()
            self.undrawn.clear()
            now = time.perf_counter()
            self.resting_until = now + REST * (now - began)

    def show(self, example: Example, name: str, epoch: Epoch) -> None:
        """Register the figure of a case; it is drawn by `write`."""
        if not self.quiet:
            self.undrawn["case"] = lambda: self._case(example, name, epoch)

    def _progress(self, history: Sequence[Epoch], run: Run, stages: Sequence[int]) -> None:
        with atomic(self.folder / "progress.png") as part:
            panels = [replace(panel, marks=tuple(stages)) for panel in _panels(history)]
            where = "; dotted line: a new stage begins" if stages else ""
            curves(part, panels, f"step {history[-1].step} of {run.training_steps}{where}")

    def _case(self, example: Example, name: str, epoch: Epoch) -> None:
        columns = [("network", example.estimate[0]), ("target", example.target[0])]
        if example.source is not None:
            columns.insert(0, ("source", example.source[0]))
        error = example.estimate[0] - example.target[0]
        with atomic(self.folder / "validation" / f"{name}.png") as part:
            title = f"{name}, step {epoch.step}: mean PSNR {epoch.psnr:.1f} dB"
            others = () if example.same_units else ("source",)
            slices(part, columns, error, title, example.spacing, others)


def line(epoch: Epoch, run: Run, best: bool, seconds_left: float) -> str:
    """Return the line of one epoch in the log."""
    parts = [f"step {epoch.step}/{run.training_steps}", f"loss {epoch.loss:.4g}"]
    if epoch.psnr is not None and epoch.ssim is not None:
        parts.append(f"PSNR {epoch.psnr:.2f} dB (without a network {epoch.baseline_psnr:.2f}), SSIM {epoch.ssim:.3f}")
    else:
        parts.append(f"validation loss {-epoch.score:.4g}")
    if epoch.walk is not None:
        parts.append(f"walk {epoch.walk:+.2f} dB")
    parts.append(f"{epoch.seconds:.0f} s, {epoch.waiting:.0%} waiting for data")
    parts.append(f"{in_words(seconds_left)} left" if seconds_left > 0 else "done")
    return "  ".join(parts) + ("  best so far" if best else "")


def losses(epoch: Epoch) -> str:
    """Return the line of the validation losses by interval of time."""
    own = "  ".join(f"{name}: {value:.3g}" for name, value in epoch.losses.items())
    return f"  loss by t  {own}  (mean volume {epoch.mean_losses.get('1', float('nan')):.3g} at 1)"


def _row(epoch: Epoch) -> dict[str, object]:
    """Return a row of progress.csv; losses by time have a column per interval."""
    row: dict[str, object] = {}
    for field in dataclasses.fields(epoch):
        value = getattr(epoch, field.name)
        if isinstance(value, dict):
            row |= {f"{field.name} {interval}": loss for interval, loss in value.items()}
        else:
            row[field.name] = value
    return row


def _by_time(history: Sequence[Epoch]) -> Curve:
    """Return the panel of the loss at t = 1, against that of the mean volume."""
    told = [epoch for epoch in history if "1" in epoch.losses]
    own, plain = ([getattr(epoch, name)["1"] for epoch in told] for name in ("losses", "mean_losses"))
    return Curve("loss at t = 1", [epoch.step for epoch in told], own, reference=("mean volume", plain))


def _panels(history: Sequence[Epoch]) -> list[Curve]:
    steps = [epoch.step for epoch in history]

    def row(name: str) -> list[float]:
        return [getattr(epoch, name) for epoch in history]

    panels = [Curve("training loss", steps, row("loss"), log=True)]
    if history[0].psnr is not None:
        panels.append(Curve("PSNR, dB", steps, row("psnr"), reference=("without a network", row("baseline_psnr"))))
        panels.append(Curve("SSIM", steps, row("ssim")))
    else:
        panels.append(Curve("validation loss", steps, [-score for score in row("score")], log=True))
        if history[-1].losses:
            panels.append(_by_time(history))
    if history[0].walk is not None:
        panels.append(Curve("estimates on a walk, dB better than for white texture", steps, row("walk")))
    panels.append(Curve("learning rate", steps, row("learning_rate")))
    panels.append(Curve("seconds per epoch", steps, row("seconds"), limits=(0.0, 1.1 * max(row("seconds")))))
    panels.append(Curve("share of time waiting for data", steps, row("waiting"), limits=(0.0, 1.0)))
    return panels
