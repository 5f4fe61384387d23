"""Fixtures of all tests: small phantoms, raw datasets in a temporary folder, and commands run in this process."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import ndimage

from nndiff.imaging import io
from nndiff.words import registry
from nndiff.words.kind import kind_of
from nndiff.words.paths import Paths
from nndiff.words.stopping import STOPPING
from nndiff.words.volume import FloatArray, Grid, Spacing, Triple, Volume

SHAPE = (14, 16, 18)
SPACING = (2.0, 2.0, 2.0)
ORIGIN = (-30.0, 12.5, 100.0)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def make_phantom(seed: int = 0, shape: Triple = SHAPE, kind: str = "pet", noise: float = 0.0) -> FloatArray:
    """Return a smooth body with two lesions whose positions follow from the seed: [Z, Y, X].

    `noise` is relative to the level of the body.
    """
    generator = np.random.default_rng(seed)
    positions = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))

    def ball(centre: Sequence[float], radius: float, sharpness: float) -> FloatArray:
        distance = np.sqrt(sum((p - c) ** 2 for p, c in zip(positions, centre, strict=True)))
        return 1 / (1 + np.exp((distance - radius) * sharpness))

    body = ball(generator.uniform(-0.1, 0.1, 3), generator.uniform(0.65, 0.75), 20)
    lesions = sum(ball(generator.uniform(-0.35, 0.35, 3), 0.2, 15) for _ in range(2))
    activity = body * (1 + 4 * lesions)
    grain = noise * ndimage.uniform_filter(body, 3) * generator.standard_normal(shape)
    if kind == "ct":
        return (1000 * body - 1000 + 20 * activity + 100 * grain).astype(np.float32)
    return (np.clip(activity + grain, 0, None) * (1 if kind == "pet" else 100)).astype(np.float32)


def save_volume(
    path: Path, array: FloatArray, spacing: Spacing = SPACING, origin: Spacing = ORIGIN, dtype: Any = np.float32
) -> Path:
    """Write one array [Z, Y, X] to a file in canonical axes, and return its path."""
    shape: Triple = array.shape  # type: ignore[assignment]
    io.write(Volume(np.asarray(array, dtype=np.float32)[None], Grid(shape, spacing, origin)), path, dtype)
    return path


def make_raw_dataset(
    raw: Path,
    number: int = 1,
    cases: int = 3,
    *,
    sources: Sequence[str] = ("PET",),
    targets: Sequence[str] = ("PET",),
    shape: Triple = SHAPE,
    spacing: Spacing = SPACING,
    noise: float = 0.3,
    masks: bool = False,
    in_place: bool = False,
    ending: str = ".nii.gz",
    **words: Any,
) -> Path:
    """Write Dataset00N_Tiny with case_0, case_1, …, and return its folder; the sources are the targets with noise.

    `words` are added to dataset.json unchanged.
    """
    folder = raw / f"Dataset{number:03d}_Tiny"
    where = {"images": "imagesTr", "targets": "targetsTr", "masks": "masksTr"}
    if in_place:
        where = dict.fromkeys(where, "elsewhere")
    rows = {}
    for index in range(cases):
        row: dict[str, Any] = {"images": [], "targets": []}
        for side, names, grain in (("images", sources, noise), ("targets", targets, 0.0)):
            for channel, name in enumerate(names):
                file = f"{where[side]}/case_{index}{f'_{side}' if in_place else ''}_{channel:04d}{ending}"
                array = make_phantom(100 * number + index, shape, kind_of(name).name, grain)
                save_volume(folder / file, array * (1 + channel / 10), spacing)
                row[side].append(file)
        if masks:
            row["mask"] = f"{where['masks']}/case_{index}{ending}"
            save_volume(folder / row["mask"], make_phantom(100 * number + index, shape) > 0.5, spacing, dtype=np.uint8)
        rows[f"case_{index}"] = row
    data = {
        "channel_names": {str(i): name for i, name in enumerate(sources)},
        "target_names": {str(i): name for i, name in enumerate(targets)},
        "file_ending": ending,
        **({"dataset": rows} if in_place else {}),
        **words,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(data))
    return folder


# ---------------------------------------------------------------- fixtures


@pytest.fixture(autouse=True)
def no_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the developer's own root folders from the environment."""
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nndiff_{kind}", raising=False)


@pytest.fixture(autouse=True)
def swift(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk, and leave the figures of a training blank unless the test is marked `drawn`.

    Both take longer than a tiny training. A killed process leaves what it wrote to the system.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)
    journal = sys.modules.get("nndiff.training.journal")  # importing it takes seconds
    if journal is not None and request.node.get_closest_marker("drawn") is None:
        for name in ("curves", "slices"):
            monkeypatch.setattr(journal, name, blank)


@pytest.fixture
def small_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MS-SSIM take tiny volumes as they are: it pads to 97³, too slow for tests that do not look at it."""
    monkeypatch.setattr("nndiff.metrics.image.SMALLEST_AXIS", 17)


def blank(path: Path, *_: Any) -> None:
    path.touch()


@pytest.fixture(scope="session", autouse=True)
def kept_costs_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let all processes of a session share what they trace, and nothing of an earlier one."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(
            "nndiff_cache", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache")
        )
        yield


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Return three root folders in a temporary folder, and set them in the environment."""
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nndiff_{kind}", str(tmp_path / kind))
    return Paths(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")


@pytest.fixture
def phantom() -> Callable[..., FloatArray]:
    return make_phantom


@pytest.fixture
def save() -> Callable[..., Path]:
    return save_volume


@pytest.fixture
def raw_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Return a function: raw_dataset(cases=3, sources=("PET",), …) → the dataset's folder below tmp_path/raw."""

    def make(number: int = 1, cases: int = 3, **words: Any) -> Path:
        return make_raw_dataset(tmp_path / "raw", number, cases, **words)

    return make


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function: offer("kind", us=object) acts like an installed package with an entry point of nndiff.kind."""
    groups: dict[str, list[Any]] = {}

    def add(group: str, **rows: Any) -> None:
        points = [SimpleNamespace(name=name, load=lambda row=row: row) for name, row in rows.items()]
        groups.setdefault(f"nndiff.{group}", []).extend(points)

    monkeypatch.setattr(registry, "entry_points", lambda group: groups.get(group, []))
    return add


@pytest.fixture
def run_cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function: run_cli(main, *argv) → exit code, stdout and stderr, as in a shell."""

    def run(main: Callable[[Sequence[str]], int], *argv: object) -> Outcome:
        capfd.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as stopped:
            code = stopped.code
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def heard() -> Iterator[None]:
    """Let no signal that asks to stop be ignored, whatever started the tests; handlers must be as before afterwards."""
    before = {each: signal.getsignal(each) for each in STOPPING}
    for each in STOPPING:
        signal.signal(each, signal.default_int_handler)
    yield
    after = [signal.getsignal(each) for each in STOPPING]
    for each, handler in before.items():
        signal.signal(each, handler)
    assert after == [signal.default_int_handler] * len(STOPPING), "a handler was not put back"
