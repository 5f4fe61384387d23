"""The model card: what a model is for and what not, its data, its figures and its limits, made from the run itself.

It names no case. Its numbers are counts, means and ranges; the end of a range is a value of one case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nndiff.checkpoint import Checkpoint, Epoch
from nndiff.folds import Fold
from nndiff.handover.data import Data
from nndiff.handover.halving import Change
from nndiff.plans.channels import Channel
from nndiff.words.telling import counted
from nndiff.words.verdict import in_words
from nndiff.words.version import versions

NO_LICENCE = "None was stated. Ask whoever gave you this file before you use it or pass it on."


@dataclass(frozen=True)
class Trained:
    """One fold as the card describes it."""

    fold: Fold
    saved: Checkpoint
    change: Change | None  # by float16; None: the weights are exact


def card(folds: Sequence[Trained], data: Data, licence: str, oddities: Sequence[str]) -> str:
    """Return the text of MODEL_CARD.md."""
    first = folds[0].fold
    sections = {
        "What it does": _purpose(first),
        "Intended use": _intended(first),
        "Not intended": _not_intended(first),
        "Training data": _data(folds, data),
        "Figures": [*_validation(folds), "", *_tuning(folds)],
        "Limits": [f"- {line}" for line in (*_limits(first), *_half(folds), *oddities)],
        "What is inside": _inside(folds),
        "Software": _software(first.plan.versions),
        "Licence": [licence or NO_LICENCE],
    }
    lines = [f"# {first.plan.dataset}, {first.configuration}"]
    for title, body in sections.items():
        lines += ["", f"## {title}", "", *body]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- for what


def _purpose(fold: Fold) -> list[str]:
    plan, planned = fold.plan, fold.planned
    targets = ", ".join(_channel(channel) for channel in plan.target_channels)
    task = f"It generates volumes: {targets}."
    if plan.source_channels:
        sources = ", ".join(_channel(channel) for channel in plan.source_channels)
        task = f"It translates volumes: {sources} → {targets}. Sources are needed in this order."
    return [
        f"{task} It works at {in_words(planned.spacing)} mm (z, y, x)"
        + ("; scans of any other grid are resampled there and back." if plan.source_channels else "."),
        "",
        f"Network: {planned.network.name}, width {planned.network.width}, puzzle factor "
        f"{in_words(planned.puzzle_factor)}, process {planned.process.name}, prediction {planned.prediction}. "
        f"Sampler: {(fold.tuned.sampler if fold.tuned else planned.sampler).label()} "
        f"({'tuned' if fold.tuned else 'planned, not tuned'}).",
        "",
        "    nndiff_predict -i SCANS -o OUT -m THIS_FILE.zip"
        if plan.source_channels
        else "    nndiff_predict -n 8 -o OUT -m THIS_FILE.zip",
    ]


def _channel(channel: Channel) -> str:
    units = f" in {channel.kind.units}" if channel.kind.units else ""
    return f"{channel.name} ({channel.kind.title}{units})"


def _intended(fold: Fold) -> list[str]:
    like = ", on scans of the modality, the region and the acquisition that it was trained on"
    return [
        f"Research and the development of methods{like if fold.plan.source_channels else ''}. Measure it on your own "
        "scans before you rely on it (`nndiff_evaluate`).",
    ]


def _not_intended(fold: Fold) -> list[str]:
    lines = [
        "- Diagnosis, treatment and any other decision about a patient: it is not a medical device, and nobody has "
        "tested it as one.",
        "- Other modalities, tracers, contrasts, units, scanners, regions or ages than those of the training.",
    ]
    if fold.plan.source_channels:
        return [*lines, "- Detection or measurement of lesions in its images without the source beside them."]
    return [*lines, "- Volumes that pass for those of real people."]


# ---------------------------------------------------------------- data


def _data(folds: Sequence[Trained], data: Data) -> list[str]:
    plan, measured = folds[0].fold.plan, data.measured
    lines = [f"- {counted(data.cases, 'case')} in the training of the folds together", *_patients(data)]
    for each in folds:
        run = each.saved.run
        held = "held out" if run.held_out else "not held out"
        cases = f"{counted(len(run.training), 'training case')}, {len(run.validation)} for validation ({held})"
        lines.append(f"- fold {each.fold.name}: {cases}; {each.fold.step} of {run.training_steps} steps")
    for seen, channel in zip(folds[0].fold.seen, plan.source_channels, strict=False):  # export reads its file back
        lines.append(
            f"- source {channel.name}: P99.99 of {_range(*seen.peaks)}, minimum of {_range(*seen.minima)}"
            + (f" {channel.kind.units}" if channel.kind.units else "")
        )
    for name, low, high in measured.targets if measured else ():
        lines.append(f"- target {name}: P99.99 of {_range(low, high)}")
    return lines


def _patients(data: Data) -> list[str]:
    measured = data.measured
    if measured is None:
        return [f"- patients, spacings and shapes: not known here ({data.unknown})"]
    spacings, shapes = (_between(ends) for ends in (measured.spacings, measured.shapes))
    return [f"- of {counted(measured.patients, 'patient')}", f"- spacings: {spacings} mm", f"- shapes: {shapes} voxels"]


def _between(ends: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    low, high = (" x ".join(f"{value:.4g}" for value in each) for each in ends)
    return low if low == high else f"{low} to {high}"


def _range(low: float, high: float) -> str:
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


# ---------------------------------------------------------------- figures


def _validation(folds: Sequence[Trained]) -> list[str]:
    rows = [(each, epoch) for each in folds if (epoch := _epoch(each.saved)) is not None]
    if not rows:
        return ["No validation was recorded for these weights."]
    heads = ("fold", "cases", "held out", "PSNR dB", "without a network", "SSIM", "MAE", "loss")
    table = [
        (
            each.fold.name,
            str(len(each.saved.run.validation)),
            "yes" if each.saved.run.held_out else "no",
            *(_cell(value) for value in (epoch.psnr, epoch.baseline_psnr, epoch.ssim, epoch.mae, epoch.loss)),
        )
        for each, epoch in rows
    ]
    return [
        "Validation, in the network's normalised units. These cases chose the epoch, so the figures are somewhat too "
        "good; 'without a network' is the best of the source, its local mean and one constant.",
        "",
        *_table(heads, table),
    ]


def _epoch(saved: Checkpoint) -> Epoch | None:
    return next((epoch for epoch in saved.history if epoch.step == saved.step), None)


def _tuning(folds: Sequence[Trained]) -> list[str]:
    heads = ("fold", "sampler", "cases", "none of them chose it", "PSNR dB", "SSIM", "MAE", "texture dB")
    rows = [
        (each.fold.name, row.label, str(row.cases), other, *map(_cell, (row.psnr, row.ssim, row.mae, row.texture_db)))
        for each in folds
        if (tuned := each.fold.tuned) is not None
        for other in ["no" if set(tuned.reported_on) & set(tuned.chosen_on) else "yes"]
        for row in tuned.report
    ]
    if not rows:
        return ["The sampler was not tuned."]
    return ["Tuning: the chosen, the best and the planned sampler.", "", *_table(heads, dict.fromkeys(rows))]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


# ---------------------------------------------------------------- limits


def _limits(fold: Fold) -> list[str]:
    if not fold.plan.source_channels:
        return ["A generating model can repeat what it was trained on (`nndiff_evaluate_generation` looks for it)."]
    return [
        "It can invent structures and can miss some. One step shows the mean of what is possible; a walk shows one "
        "possibility, whose fine detail is not that of the patient.",
        "Scans that differ from the training data give images that look right and are not. `nndiff_predict` warns of "
        "other units and of coarser voxels, of nothing else.",
    ]


def _half(folds: Sequence[Trained]) -> list[str]:
    return [
        f"Fold {each.fold.name}: its weights were rounded to float16. On a random input at t = 1 this changes the "
        f"network's output by {each.change}."
        for each in folds
        if each.change is not None
    ]


def _inside(folds: Sequence[Trained]) -> list[str]:
    half = folds[0].change is not None
    return [
        f"Inside: the averaged weights of {counted(len(folds), 'fold')} ({'float16' if half else 'float32'}); the "
        "plan, with the name of the dataset, the reasons of its decisions and what was set by hand; the number of the "
        "training step; where the sampler was tuned, what was measured of each; per source channel the lowest and the "
        "highest P99.99 and minimum of the training cases, which prediction compares new scans with. Each of these is "
        "a value of one case.",
        "",
        "Not inside: images, names of cases, patients or files, the lists of training and validation cases, the state "
        "of the optimiser, the history of the training. Weights are made from the training images; nobody has shown "
        "that nothing of an image can be recovered from them.",
    ]


def _software(trained: Mapping[str, str]) -> list[str]:
    def line(of: Mapping[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in of.items()) or "not recorded"

    return [f"- planned with {line(trained)}", f"- exported with {line(versions())}"]
