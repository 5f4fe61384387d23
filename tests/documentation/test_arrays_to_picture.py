"""The notebook runs from its first cell to its last, and what it trains is better than what it is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from tests.documentation.pages import ROOT

NOTEBOOK = ROOT / "documentation" / "how-to" / "arrays_to_picture.ipynb"


@pytest.mark.usefixtures("roots")  # puts the environment back that the notebook changes
def test_it_runs_and_its_picture_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "the notebook is stored without outputs"
            exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    metrics = names["found"].summary["metrics"]
    psnr = {method: channels["0"]["PSNR"]["mean"] for method, channels in metrics.items()}
    assert psnr["prediction"] > psnr["input"] + 3
    assert set(names["predicted"].paths) == {"blob08", "blob09"} == set(names["predicted"].seconds)
    assert (tmp_path / "arrays_to_picture" / "picture.png").stat().st_size > 0
    assert "dB" in capsys.readouterr().out
