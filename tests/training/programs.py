"""Trainings in processes of their own, in which something happens at a certain step."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
SCRIPT = """
import os, signal, sys
from datetime import timedelta
from nndiff.cli.train import main
from nndiff.training import ema, new_run, ranks
update = ema.EMA.update
{before}
def happening(self, network, step):
    if {when}:
        {what}
    update(self, network, step)
ema.EMA.update = happening
sys.exit(main(["1", "bridge", "all", "-device", "cpu", *{words}]))
"""


def program(folder: Path, when: str, what: str, *words: str, before: str = "") -> Path:
    """Write nndiff_train with these words as a program, in which `what` happens when `when` holds."""
    path = folder / "program.py"
    path.write_text(SCRIPT.format(when=when, what=what, words=list(words), before=before))
    return path


def environment(**variables: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables
