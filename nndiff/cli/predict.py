"""nndiff_predict: translate a folder of scans with a trained model (or generate volumes)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nndiff.cli.command import Command, paths_of
from nndiff.cli.train import add_device
from nndiff.words.errors import NndiffError

STARTS = ("source", "noise", "shortcut", "draft")


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_predict", __doc__ or "")
    _add_where(command)
    _add_how(command)
    add_device(command)
    command.flag("seed", type=int, default=0, metavar="N", help="a case depends on (seed, its name) alone (0)")
    command.flag("continue_prediction", action="store_true", help="keep the outputs that are there already")
    command.flag("num_parts", type=int, default=1, metavar="N", help="share the folder among N calls (1)")
    command.flag("part_id", type=int, default=0, metavar="K", help="which share this call takes, from 0")
    command.flag("disable_progress_bar", action="store_true", help="no progress bar")
    return command.run(_work, argv)


def _add_where(command: Command) -> None:
    command.flag("input", short="i", type=Path, default=None, metavar="FOLDER", help="scans: CASE_0000.nii.gz …")
    command.flag("output", short="o", type=Path, required=True, metavar="FOLDER", help="where volumes go")
    command.flag("dataset", short="d", default=None, metavar="ID", help="dataset number or name of the model")
    command.flag("configuration", short="c", default="bridge", metavar="NAME", help="its configuration (bridge)")
    command.flag("model", short="m", type=Path, default=None, metavar="FOLDER", help="or the model's own folder")
    command.flag("folds", short="f", nargs="+", default=None, metavar="FOLD", help="folds to average; unset: all")
    command.flag("chk", default="checkpoint_best.pt", metavar="FILE", help="checkpoint (checkpoint_best.pt)")


def _add_how(command: Command) -> None:
    command.flag("steps", type=_auto_or_count, default=None, metavar="auto|N", help="network evaluations a volume")
    command.flag("start", choices=("auto", *STARTS), default="auto", help="where the path begins; auto: as planned")
    command.flag("ts", type=int, default=None, metavar="N", help="starting step, of 1000")
    command.flag("eta", type=float, default=None, metavar="X", help="fresh noise: 0 deterministic, 1 ancestral")
    command.flag("order", type=int, choices=(1, 2), default=None, help="of the solver")
    command.flag("hot", type=int, default=None, metavar="K", help="K steps at once, then noise; 1: none, 0: not so")
    command.flag("shifts", type=int, default=None, metavar="K", help="mean over K places of the puzzle's grid")
    command.flag("reuse", type=int, default=None, metavar="N", help="run the whole network every N-th step only")
    command.flag("reuse_depth", type=int, default=None, metavar="M", help="decoder blocks of the steps between (1)")
    command.flag("reuse_threshold", type=float, default=None, metavar="X", help="or when its features moved by X")
    command.flag("samples", type=int, default=None, metavar="K", help="draws to average (1)")
    command.flag("save_uncertainty", action="store_true", help="their standard deviation, in uncertainty/")
    command.flag("save_samples", action="store_true", help="each draw, in samples/")
    command.flag("dicom_out", action="store_true", help="also as derived DICOM series, in dicom/; of DICOM scans")
    command.flag("n", type=int, default=1, metavar="N", help="volumes to generate, for a model that generates (1)")
    command.flag("step_size", type=float, default=None, metavar="X", help="of tiles, as a share of their size")


def _auto_or_count(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected auto or a number of steps; found {text}")
    return int(text)


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.prediction import Request, predict

    request = Request(
        input=arguments.input,
        output=arguments.output,
        model=_model(arguments),
        configuration=None if arguments.model else arguments.configuration,
        volumes=arguments.n,
        folds=tuple(arguments.folds) if arguments.folds else None,
        checkpoint=arguments.chk if arguments.chk.endswith(".pt") else f"{arguments.chk}.pt",
        start=None if arguments.start == "auto" else arguments.start,
        ts=arguments.ts,
        steps=arguments.steps,
        eta=arguments.eta,
        order=arguments.order,
        hot=arguments.hot,
        shifts=arguments.shifts,
        reuse=arguments.reuse,
        reuse_depth=arguments.reuse_depth,
        reuse_threshold=arguments.reuse_threshold,
        samples=arguments.samples,
        save_uncertainty=arguments.save_uncertainty,
        save_samples=arguments.save_samples,
        dicom_out=arguments.dicom_out,
        step_size=arguments.step_size,
        seed=arguments.seed,
        device=arguments.device,
        go_on=arguments.continue_prediction,
        part=arguments.part_id,
        parts=arguments.num_parts,
        quiet=arguments.disable_progress_bar,
    )
    summary = predict(request)
    kept = f", {len(summary.skipped)} were there already" if summary.skipped else ""
    print(f"{len(summary.done)} volumes written to {arguments.output}{kept}; how they were made: {summary.record}")
    for case, lines in summary.warnings.items():
        for line in lines:
            print(f"Warning: {case}: {line}", file=sys.stderr)


def _model(arguments: argparse.Namespace) -> Path:
    if (arguments.model is None) == (arguments.dataset is None):
        raise NndiffError("Name the model once.", remedy="-d DATASET -c CONFIG, or -m MODEL_FOLDER")
    if arguments.model is not None:
        return Path(arguments.model)
    paths = paths_of(arguments)
    return paths.results / paths.dataset_name(arguments.dataset) / str(arguments.configuration)


if __name__ == "__main__":
    sys.exit(main())
