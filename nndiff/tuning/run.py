"""The tuning of one trained fold: writes inference.json and tuning.png beside its checkpoint, and prints a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nndiff import checkpoint
from nndiff.checkpoint import BEST, Checkpoint
from nndiff.imaging import store
from nndiff.pictures import Point, tradeoff
from nndiff.sampling import inference
from nndiff.sampling.inference import Inference, Row, digest_of
from nndiff.sampling.translate import build_model
from nndiff.tuning.measure import Bench, Measured
from nndiff.tuning.search import Search, frontier, tune
from nndiff.tuning.teacher import forced, table
from nndiff.words.errors import NndiffError
from nndiff.words.files import atomic
from nndiff.words.telling import tell
from nndiff.words.text_table import text_table

MOST_CASES = 4  # the most cases for the choice, and the most other cases for the report
SHARE = 0.2  # the default time budget, as a share of the training time
HEADS = (
    "",
    "score",
    "PSNR dB",
    "SSIM",
    "MAE",
    "texture dB",
    "HF",
    "HF body",
    "HF air",
    "correlation",
    "s/volume",
    "cases",
)


@dataclass(frozen=True)
class Request:
    """A request to tune the sampler of one checkpoint."""

    fold: Path
    prepared: Path  # preprocessed/DATASET
    device: torch.device
    budget: float | None = None  # seconds; None: a fifth of the training time
    objective: str = "balanced"
    seconds_a_volume: float | None = None
    checkpoint: str = BEST
    seed: int = 0


def run(request: Request) -> Inference:
    trained = checkpoint.load(request.fold / request.checkpoint, "train this fold first")
    planned = trained.planned.sampler
    choosing, reporting = _cases(request, trained)
    model = build_model(trained.plan, trained.configuration, [trained.ema], request.device)
    bench = Bench(model, trained.plan, request.prepared / trained.configuration, request.seed)
    budget = request.budget or SHARE * sum(epoch.seconds for epoch in trained.history)
    search = Search(
        bench=bench, cases=choosing, budget=budget, objective=request.objective, at_most=request.seconds_a_volume
    )
    tell(f"Tuning on {', '.join(choosing)} for at most {budget:.0f} s. Planned sampler: {planned.label()}.")

    def measured(row: Measured) -> None:
        tell("  " + _line(row.row(search.texture)))

    found = tune(search, planned, reporting, request.checkpoint, digest_of(trained.ema), measured)
    if search.left_out:
        tell(f"{len(search.left_out)} samplers were not tried for lack of time; --time_budget allows more.")
    inference.save(request.fold, found)
    with atomic(request.fold / "tuning.png") as part:
        tradeoff(part, points(search, found), "seconds per volume", f"score ({request.objective})", _title(found))
    rows = forced(bench, planned, choosing[:1])
    if rows:
        tell(f"\nEstimates from x_t made of the truth, case {choosing[0]} (documentation/how-to/tune.md):")
        tell(table(rows))
        planned_part = trained.planned.open_part
        tell(f"What the source leaves open: {rows[0].error:.4g} in one step on this case; planned {planned_part:.4g}.")
    return found


def can_be_tuned(fold: Path, name: str = BEST) -> bool:
    """Return whether the model can be tuned: it needs true targets, so a model that generates cannot."""
    return checkpoint.load(fold / name).plan.task == "translation"


def up_to_date(fold: Path, name: str = BEST) -> bool:
    """Return whether exactly this checkpoint has been tuned."""
    try:
        trained = checkpoint.load(fold / name)
        return inference.load(fold, name, trained.planned.sampler, digest_of(trained.ema)) is not None
    except NndiffError:
        return False


def summary(found: Inference) -> str:
    others = "other cases than for the choice" if found.reported_on != found.chosen_on else "the same cases"
    lines = [
        f"\nChosen by '{found.objective}'; results on {others} ({', '.join(found.reported_on)}):",
        text_table([HEADS, *([row.label, *_figures(row)] for row in found.report)]),
    ]
    if found.best != found.sampler:
        psnr = {row.sampler: row.psnr for row in found.report}
        error = f" ± {found.standard_error:.3f} (standard error)" if len(found.reported_on) > 1 else ""
        lines.append(
            f"On these cases, the sampler with the best score in the search differs from the chosen one by "
            f"{found.best_minus_chosen:+.3f}{error} in score and by "
            f"{psnr[found.best] - psnr[found.sampler]:+.2f} dB in PSNR."
        )
    return "\n".join(lines)


def ends(found: Inference) -> str:
    """Return the lines on the dial from the mean to the texture, and on the spread of draws."""
    if len(found.dial) < 2:
        if found.untried:
            return f"There is no dial yet: {found.untried} samplers were not measured for lack of time (--time_budget)."
        return "There is no dial: no sampler has a better texture than the one with the best PSNR."
    lines = ["\nFrom the mean to the texture (nndiff_predict --objective fidelity|balanced|texture, or --dial 0 to 1):"]
    lines += [f"  {stop.position:.2f}  {stop.label()}" for stop in found.dial]
    if found.drawn is not None:
        drawn = found.drawn
        gain = 1 - drawn.crps / drawn.point_mae
        lines.append(
            f"{drawn.draws} draws at the texture's end, {drawn.cases} other cases: CRPS {drawn.crps:.5f}, {gain:.0%} "
            f"below that of one step ({drawn.point_mae:.5f}); PSNR {drawn.psnr:.2f} dB, of their mean "
            f"{drawn.mean_psnr:.2f} dB; spread over error {drawn.spread_over_error:.2f}, "
            f"{drawn.spread_over_error * drawn.scale:.2f} with the factor {drawn.scale:.2f} of the first cases."
        )
    return "\n".join(lines)


def _figures(row: Row) -> list[str]:
    return [
        f"{row.score:.2f}",
        f"{row.psnr:.2f}",
        f"{row.ssim:.4f}",
        f"{row.mae:.4f}",
        _cell(row.texture_db),
        f"{row.hf:.2f}",
        _cell(row.hf_body),
        _cell(row.hf_air),
        _cell(row.correlation_bias, "+.2f"),
        _cell(row.seconds),
        str(row.cases),
    ]


def _line(row: Row) -> str:
    score, psnr, ssim, _, texture, _, body, air, correlation, seconds, _ = _figures(row)
    local = f"texture {texture or '-'} dB (HF body {body or '-'}, air {air or '-'}, correlation {correlation or '-'})"
    return f"{row.label}: score {score}, PSNR {psnr} dB, SSIM {ssim}, {local}, {seconds} s"


def _cell(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)


def points(search: Search, found: Inference) -> list[Point]:
    """Return the points of tuning.png.

    The chosen sampler, the planned sampler and the samplers on the Pareto front have a label.
    """
    front = {row.sampler for row in frontier(search.rows, search.texture)}
    points = []
    for measured in search.rows:
        row, chosen = measured.row(search.texture), measured.sampler == found.sampler
        label = row.label if chosen or measured.sampler in front else ""
        if measured.sampler == found.planned:
            label = f"planned: {row.label}"
        in_front = measured.sampler in front
        points.append(Point(label=label, x=measured.cost, y=row.score, chosen=chosen, in_front=in_front))
    return points


def _title(found: Inference) -> str:
    count = len(found.chosen_on)
    return f"Quality against time on {count} held-out volume{'s' if count > 1 else ''}"


def _cases(request: Request, trained: Checkpoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the cases for the choice and those for the report: a random split of the held-out cases, fixed by seed."""
    folder = request.prepared / trained.configuration
    there = store.cases(folder) if folder.is_dir() else []
    held = sorted(set(there) - set(trained.run.training)) if trained.run.held_out else sorted(trained.run.validation)
    if not trained.run.held_out:
        tell("Warning: fold all has no held-out case. Tuning on training cases favours samplers that overfit.")
    held = [case for case in held if case in there]
    if not held:
        raise NndiffError(
            "There is no held-out case to tune on.", where=folder, remedy="preprocess all cases of the dataset again"
        )
    order = [held[i] for i in np.random.default_rng(request.seed).permutation(len(held))]
    if len(order) == 1:
        tell("Warning: the choice and the results are from the same single held-out case, so they are uncertain.")
        return tuple(order), ()
    half = min(MOST_CASES, (len(order) + 1) // 2)
    return tuple(order[:half]), tuple(order[half : half + MOST_CASES])
