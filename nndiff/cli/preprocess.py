"""nndiff_preprocess: crop, normalise and resample every case as planned, and store it for training.

Reads the raw dataset and `plan.json`; skips cases that are up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nndiff.cli.command import Command, add_configurations, add_crew, add_dataset, crew, paths_of
from nndiff.plans.plan import Plan
from nndiff.words.crew import Workers
from nndiff.words.paths import Paths
from nndiff.words.telling import counted, show


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_preprocess", __doc__ or "")
    add_dataset(command)
    add_configurations(command, "all in the plan")
    add_crew(command)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.plans.plan import load_plan

    paths = paths_of(arguments)
    for wanted in arguments.dataset:
        name = paths.dataset_name(wanted)
        plan = load_plan(paths.preprocessed / name / "plan.json", f"plan it first: nndiff_plan -d {wanted}")
        prepare_cases(paths, plan, arguments.configurations or list(plan.configurations), crew(arguments))


def prepare_cases(paths: Paths, plan: Plan, configurations: Sequence[str], workers: Workers) -> None:
    """Preprocess a dataset for the given configurations, and print a summary of each."""
    from nndiff.data.preprocess import preprocess
    from nndiff.words import dataset

    raw = dataset.read(paths.raw / plan.dataset)
    for summary in preprocess(raw, plan, configurations, paths.preprocessed / plan.dataset, workers):
        kept = f", {summary.skipped} already up to date" if summary.skipped else ""
        gone = f", {summary.removed} removed that the dataset no longer contains" if summary.removed else ""
        done = counted(summary.done, "case")
        show(f"{summary.configuration}: {done} preprocessed{kept}{gone}; folder {summary.folder}")
        error = f"{summary.worst_error:.1e} rms of the normalised range"
        show(f"  largest error after preprocessing and back: {error} (case {summary.worst_case})")
        if summary.cut:
            show(f"  cut at the edges, because they are larger than the shape for generation: {', '.join(summary.cut)}")


if __name__ == "__main__":
    sys.exit(main())
