"""Tests that a command stops silently when the reader of its output ends, as `head` does."""

from __future__ import annotations

import subprocess
import sys

TEXT = """
import sys
from nndiff.cli.command import Command
sys.exit(Command("tells", "Much.").run(lambda arguments: [print("word " * 100) for _ in range(5000)], []))
"""


def test_head_is_no_error_with_a_traceback() -> None:
    process = subprocess.Popen([sys.executable, "-c", TEXT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=20) == 1
    assert errors == ""
