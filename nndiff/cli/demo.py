"""nndiff_demo: simulate PET scans of random bodies and write them as raw datasets, to try everything else on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nndiff.cli.command import Command, add_workers, paths_of


def main(argv: Sequence[str] | None = None) -> int:
    command = Command("nndiff_demo", __doc__ or "")
    command.flag("training", type=int, default=16, metavar="N", help="training cases (16)")
    command.flag("held_out", type=int, default=4, metavar="N", help="held-out cases, in imagesTs and targetsTs (4)")
    command.flag(
        "dose", type=float, default=0.1, metavar="SHARE", help="of the counts that the low-count scan keeps (0.1)"
    )
    command.flag("seed", type=int, default=0, metavar="N", help="other seeds, other bodies (0)")
    add_workers(command)
    return command.run(_work, argv)


def _work(arguments: argparse.Namespace) -> None:
    from nndiff.demo.cases import simulate

    raw = paths_of(arguments).raw
    written = simulate(raw, arguments.training, arguments.held_out, arguments.dose, arguments.seed, arguments.np)
    for folder in written:
        print(f"Wrote {folder}")
    print(f"Next: nndiff_plan_and_preprocess -d 900 --raw {raw}")


if __name__ == "__main__":
    sys.exit(main())
