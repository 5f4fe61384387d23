"""The commands of the first two pages work one after the other, on volumes of a few thousand voxels.

A block that is marked as long is not run. Of a training in such a block a training of two steps takes the place, so
that the commands after it find a model.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import pytest
import SimpleITK

from benchmarks.soak import TINY, write_dataset
from nndiff.cli import train
from nndiff.cli.reference import ROOT
from tests.documentation.pages import LONG, Page, module_of, split

SHORT = [*TINY, "patch_size=[12,16,16]", "training_steps=2"]
QUICK = {  # what is added to a command
    "nndiff_convert": ["-np", "0"],
    "nndiff_plan": ["-c", "bridge"],
    "nndiff_plan_and_preprocess": ["-c", "bridge", "-np", "0"],
    "nndiff_evaluate": ["-np", "0"],
}
STARTS = re.compile(r"\s*(export|make|git|python|pip|source|torchrun|nndiff_\w+) ")  # other lines show files or output


def run(page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Run the commands of a page in the folder, and return their names."""
    done = set()
    for block in page.blocks:
        for number, line in block.lines:
            if not STARTS.match(line):
                continue
            where = f"{page}:{number}: {line.strip()}"
            for program, *words in split(line.replace("=/data/", f"={folder}/data/")):
                if program == "export":
                    for name, _, value in (word.partition("=") for word in words):
                        monkeypatch.setenv(name, os.path.expandvars(value))
                elif block.long and program == "nndiff_train":
                    assert train.main([*words[:3], "--no_tune", "-np", "0", "--set", *SHORT]) == 0, where
                elif not block.long:
                    called = module_of([program, *words])
                    assert called is not None, f"{where}: mark the block with {LONG}"
                    arguments = [os.path.expandvars(word) for word in called[1]]
                    code = importlib.import_module(called[0]).main([*arguments, *QUICK.get(program, [])])
                    assert code == 0, f"{where}: ended with exit code {code}"
                    done.add(program)
    return done


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    return tmp_path


def test_getting_started(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Dataset900_DemoPET", "Dataset901_DemoNAC"):  # the scans that nndiff_demo would take minutes to make
        write_dataset(raw := here / "demo" / "raw" / name)
        region = SimpleITK.Cast(SimpleITK.ReadImage(raw / "targetsTs" / "case_0_0000.nii.gz") > 50, SimpleITK.sitkUInt8)
        (raw / "regionsTs").mkdir()
        SimpleITK.WriteImage(region, raw / "regionsTs" / "case_0.nii.gz")
    done = run(Page(ROOT / "documentation" / "getting-started.md"), here, monkeypatch)
    assert done == {"nndiff_demo", "nndiff_predict", *QUICK} - {"nndiff_convert"}
    assert (here / "demo" / "out" / "metrics.csv").exists()


def test_your_own_data_in_the_readme(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(here)
    for part, name in (("imagesTr", "low"), ("targetsTr", "full"), ("imagesTs", "NEW_SCANS"), ("targetsTs", "TRUTH")):
        (here / part).rename(here / name)
    for path in [*(here / "low").iterdir(), *(here / "full").iterdir()]:
        path.rename(path.with_name(path.name.replace("_0000", "")))
    done = run(Page(ROOT / "README.md"), here, monkeypatch)
    assert done == {"nndiff_tune", "nndiff_predict", "nndiff_find_best_configuration", *QUICK} - {"nndiff_plan"}
    assert (here / "MEASURED" / "metrics.csv").exists()
