"""nndiff_tune: choose the sampler of a trained fold by quality and time per volume, measured on its held-out cases.

Reads a checkpoint and held-out preprocessed cases; writes `inference.json` and `tuning.png`. See
documentation/how-to/tune.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nndiff.cli.command import Command, answer, paths_of
from nndiff.cli.times import HINT, seconds_of
from nndiff.cli.train import add_device, add_fold
from nndiff.words.telling import show

if TYPE_CHECKING:
    from nndiff.sampling.inference import Inference

OBJECTIVES = ("fidelity", "balanced", "texture")


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_tune", __doc__ or "", answers="what was chosen and measured")
    add_fold(command)
    add_device(command)
    command.flag(
        "time_budget",
        type=seconds_of,
        default=None,
        metavar="TIME",
        help=f"time for tuning, {HINT} (default: a fifth of the training time)",
    )
    command.flag(
        "objective", choices=OBJECTIVES, default="balanced", help="how much texture counts (default: balanced)"
    )
    command.flag(
        "seconds_per_volume",
        type=float,
        default=None,
        metavar="S",
        help="choose no sampler that is slower than this on this machine",
    )
    command.flag(
        "chk", default="checkpoint_best.pt", metavar="FILE", help="checkpoint file (default: checkpoint_best.pt)"
    )
    command.flag(
        "seed",
        type=int,
        default=0,
        metavar="N",
        help="random seed of the noise and of the split of the cases (default: 0)",
    )
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    import nndiff

    paths = paths_of(arguments)
    found = nndiff.tune(
        arguments.dataset,
        arguments.configuration,
        arguments.fold,
        objective=arguments.objective,
        time_budget=arguments.time_budget,
        seconds_per_volume=arguments.seconds_per_volume,
        checkpoint=arguments.chk,
        seed=arguments.seed,
        device=arguments.device,
        preprocessed=paths.preprocessed,
        results=paths.results,
    )
    from nndiff.sampling.inference import FILE

    answer(arguments, found, lambda: in_words(found))
    name = paths.dataset_name(arguments.dataset)
    fold = paths.results / name / arguments.configuration / f"fold_{arguments.fold}"
    show(f"Wrote {fold / FILE}, which nndiff_predict uses, and a plot: {fold / 'tuning.png'}")


def in_words(found: Inference) -> str:
    from nndiff.tuning.run import ends, summary

    return f"{summary(found)}\n{ends(found)}"


if __name__ == "__main__":
    sys.exit(main())
