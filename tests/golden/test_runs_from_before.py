"""Tests that runs from before the sampler had parts still load, predict and resume with the same results.

Each folder of runs/ holds a checkpoint and a plan of version 1, and the volumes that several samplers of that version
made (`expected.npz`), with the stored form of those samplers. On the processor that made them, the volumes agree bit
for bit; on others they agree within rounding.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.fuzz_texts import damaged_text
from nndiff import checkpoint
from nndiff.checkpoint import Run
from nndiff.plans import migrate
from nndiff.plans.plan import Plan, decode_plan, load_plan
from nndiff.sampling import inference
from nndiff.sampling.inference import digest_of
from nndiff.sampling.translate import arrangements, build_model, translate
from nndiff.training.batches import Batches
from nndiff.training.job import Job
from nndiff.training.run import train
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.files import read_json, write_json
from nndiff.words.strict_json import decode, encode
from nndiff.words.volume import Triple
from tests.training import tiny

RUNS = Path(__file__).parent / "runs"
NAMES = sorted(path.name for path in RUNS.iterdir() if path.is_dir())
SHAPE: Triple = (16, 16, 20)
MACHINE = json.loads((RUNS / "machine.json").read_text())
SAME_MACHINE = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()} == MACHINE

DAMAGED = 60  # texts of a run
every_run = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samplers(name: str, overlap: float) -> dict[str, SamplerPlan]:
    stored = read_json(RUNS / name / "samplers.json")
    return {label: decode(SamplerPlan, migrate.sampler(old, overlap)) for label, old in stored.items()}


def demand_equal(found: np.ndarray, expected: np.ndarray) -> None:
    if SAME_MACHINE:
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@every_run
def test_a_checkpoint_from_before_predicts_the_same_volumes(name: str) -> None:
    found = checkpoint.load(RUNS / name / "checkpoint_latest.pt")
    model = build_model(found.plan, found.configuration, [found.ema], torch.device("cpu"))
    source = RUNS / name / "source.npy"
    case = torch.from_numpy(np.load(source)) if source.exists() else None
    expected = np.load(RUNS / name / "expected.npz")
    planned = found.planned.sampler
    overlap = next(layer.overlap for layer in planned.layers if layer.name == "tiles")
    walks = samplers(name, overlap)
    assert walks["planned"] == planned
    assert set(walks) == set(expected.files)
    for label, sampler in walks.items():
        layouts = arrangements(model, SHAPE, 10**11, sampler)
        volume = translate(model, case, SHAPE, sampler, torch.Generator().manual_seed(3), layouts)
        demand_equal(volume.numpy(), expected[label])


@every_run
def test_a_plan_from_before_is_read_as_the_checkpoint_has_it_and_keeps_its_seals(name: str) -> None:
    plan = load_plan(RUNS / name / "plan.json")
    assert plan == checkpoint.load(RUNS / name / "checkpoint_latest.pt").plan
    assert plan.version == migrate.VERSION
    assert decode_plan(encode(plan)) == plan
    (configuration,) = plan.configurations
    raw = read_json(RUNS / name / "plan.json")
    raw["configurations"][configuration]["batch_size"] = 5
    edited = decode_plan(raw)
    assert edited.seals[configuration] != plan.seals[configuration]


@every_run
def test_what_was_tuned_before_is_read_with_the_tiles_of_the_plan(name: str) -> None:
    found = checkpoint.load(RUNS / name / "checkpoint_latest.pt")
    planned = found.planned.sampler
    tuned = inference.load(RUNS / name, "checkpoint_latest.pt", planned, digest_of(found.ema))
    assert tuned is not None
    assert tuned.planned == planned
    assert {row.label: row.sampler for row in tuned.sweep} == samplers(name, planned.layers[0].overlap)
    assert {(row.hf, row.texture_db, row.hf_body, row.hf_air) for row in tuned.sweep} == {(0.4, None, None, None)}


def test_an_override_from_before_stands_where_its_field_stands_now() -> None:
    raw = read_json(RUNS / "ddpm" / "plan.json")
    raw["overrides"] = {
        "configurations.ddpm.steps": 4,
        "configurations.ddpm.order": 2,
        "configurations.ddpm.learning_rate": 1e-4,
        "crop.enabled": False,
    }
    assert decode_plan(raw).overrides == {
        "configurations.ddpm.sampler.times.steps": 4,
        "configurations.ddpm.sampler.rule": {"name": "second"},
        "configurations.ddpm.learning_rate": 1e-4,
        "crop.enabled": False,
    }


@pytest.mark.parametrize("name", [name for name in NAMES if (RUNS / name / "checkpoint_at_3.pt").exists()])
def test_a_training_from_before_goes_on_to_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its patches at the positions of that version, which knew no phase of the puzzle."""
    cut = Job.batches

    def cut_before(job: Job, run: Run) -> Batches:
        batches = cut(job, run)
        batches.puzzle_factor = (1, 1, 1)
        return batches

    monkeypatch.setattr(Job, "batches", cut_before)
    plan: Plan = load_plan(RUNS / name / "plan.json")
    (configuration,) = plan.configurations
    tiny.prepare(tmp_path, plan, cases=5, shapes=[SHAPE])
    request = tiny.request(tmp_path, plan, configuration, go_on=True)
    request.folder.mkdir(parents=True)
    shutil.copy(RUNS / name / "checkpoint_at_3.pt", request.folder / checkpoint.LATEST)
    train(request)
    done = checkpoint.load(request.folder / checkpoint.LATEST)
    assert done.step == 6
    if SAME_MACHINE:
        expected = read_json(RUNS / name / "resumed.json")
        assert {"weights": digest_of(done.weights), "ema": digest_of(done.ema)} == expected


def test_a_plan_of_a_version_that_is_not_known_is_not_taken_for_one_of_today(tmp_path: Path) -> None:
    raw = {**read_json(RUNS / "ddpm" / "plan.json"), "version": 0}
    write_json(tmp_path / "plan.json", raw)
    with pytest.raises(Exception, match=r"Unknown key|missing"):
        load_plan(tmp_path / "plan.json")


@every_run
def test_a_damaged_text_of_an_older_version_is_refused_in_words_or_read(name: str, tmp_path: Path) -> None:
    generator, kinds = np.random.default_rng(5), set()
    planned = next(iter(load_plan(RUNS / name / "plan.json").configurations.values())).sampler
    for _ in range(DAMAGED):
        for file in ("plan.json", inference.FILE):
            if not (RUNS / name / file).exists():
                continue
            (tmp_path / file).write_bytes(damaged_text((RUNS / name / file).read_bytes(), generator))
            try:
                if file == "plan.json":
                    load_plan(tmp_path / file)
                else:
                    inference.load(tmp_path, "checkpoint_latest.pt", planned, "")
                kinds.add("read")
            except NndiffError as error:
                kinds.add("older version" if "older version" in str(error) else "words")
    assert kinds == {"read", "words", "older version"}
