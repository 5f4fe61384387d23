"""Compare a text with its golden file, which a person has reviewed, or write the file anew on demand."""

import os
from difflib import unified_diff
from pathlib import Path

UPDATE = bool(os.environ.get("NNDIFF_UPDATE_GOLDEN"))


def demand_reviewed(path: Path, text: str) -> None:
    """Fail with the lines that differ from the file's, or, when golden files are updated, write them into it."""
    if UPDATE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    reviewed = path.read_text(encoding="utf-8")
    changes = unified_diff(reviewed.splitlines(), text.splitlines(), str(path), "now", n=0, lineterm="")
    assert text == reviewed, "\n".join(changes)
