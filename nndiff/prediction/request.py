"""The request for a prediction: model, folders and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nndiff.checkpoint import BEST
from nndiff.words.crew import Crew
from nndiff.words.errors import NndiffError


@dataclass(frozen=True)
class Request:
    """A request to translate a folder of scans, or to generate volumes."""

    output: Path
    model: Path  # folder of a configuration, or of one of its folds
    input: Path | None = None  # None: generation, or `files`
    files: Mapping[str, tuple[Path, ...]] | None = None  # case → its scans, one per source channel; instead of `input`
    volumes: int = 1  # number of volumes to generate
    folds: tuple[str, ...] | None = None  # None: all folds whose training has ended
    checkpoint: str = BEST
    weights: Mapping[str, str] = field(default_factory=dict)  # fold → expected hash of its weights; others are refused
    allow_unfinished: bool = False  # whether folds whose training has not ended may be used
    configuration: str | None = None  # the expected configuration of the model; None: any
    sampler: Mapping[str, Any] = field(default_factory=dict)  # changes to the model's sampler: flag → value
    dial: float | None = None  # 0: the mean, 1: the texture; None: the planned or tuned sampler
    save_uncertainty: bool = False
    save_expected_error: bool = False
    save_samples: bool = False
    dicom_out: bool = False
    record_paths: bool = False  # whether predict.json holds the folders of files, not only their names
    seed: int = 0
    device: str | None = None
    go_on: bool = False
    part_id: int = 0  # which share of the folder this call takes
    num_parts: int = 1
    crew: Crew = field(default_factory=Crew)  # elsewhere: a cluster translates the folder, in parts
    job: str = ""  # of this part in a cluster, which may begin it again
    quiet: bool = False


def demand_sound(request: Request) -> None:
    """Refuse a request that no model could fulfil."""
    scans = request.input.parent if request.input is not None and request.input.is_file() else request.input
    if scans is not None and scans.resolve() == request.output.resolve():
        raise NndiffError(
            "The output folder must not be the input folder, because outputs would replace the scans.",
            where=request.output,
            remedy="pass another folder after -o",
        )
    if request.seed < 0 or request.volumes < 1:
        name, least, found = ("-seed", 0, request.seed) if request.seed < 0 else ("-n", 1, request.volumes)
        raise NndiffError(f"{name} is too small.", expected=f"{least} or more", found=found)
    if request.crew.most is not None and not request.crew.elsewhere:
        raise NndiffError(
            "-np counts the parts that a cluster predicts at a time; here cases are predicted one after the other.",
            remedy="leave out -np, or pass --scheduler or --cluster",
        )
    if not 0 <= request.part_id < request.num_parts:
        raise NndiffError("-part_id counts from 0.", expected=f"0 to {request.num_parts - 1}", found=request.part_id)


def demand_task(request: Request, generates: bool) -> None:
    """Refuse options of the other task: translation needs scans, generation takes none."""
    translates = request.input is not None or request.files is not None
    if generates and translates:
        raise NndiffError(
            "This model generates volumes, so it takes no input.",
            remedy="leave out -i, and pass the number of volumes with -n",
        )
    if generates and request.dicom_out:
        raise NndiffError(
            "--dicom_out needs a DICOM scan of a patient, but this model generates volumes.",
            remedy="leave out --dicom_out",
        )
    if not generates and request.volumes != 1:
        raise NndiffError(
            "This model translates every scan once, so it takes no number of volumes.",
            found=f"-n {request.volumes}",
            remedy="leave out -n; --samples draws several times and averages, --save_samples keeps the draws",
        )
    if not generates and not translates:
        raise NndiffError("This model translates scans, so it needs an input folder.", remedy="pass -i FOLDER")
