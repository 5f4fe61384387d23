"""Tests of replayed evaluations. Graphs exist on GPUs only: a stand-in computes again, in the same tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nndiff.sampling import replays, translate
from nndiff.sampling.replays import Replayed, replay_bytes
from nndiff.sampling.translate import arrangements
from nndiff.walk.caches import Deep
from nndiff.words.volume import Triple
from tests.sampling.test_translate import SHAPE, model_of, walked
from tests.walks import walk_of


class Again:
    """A graph of a CPU: a replay computes again, and writes where the recording wrote."""

    def __init__(self, work: Callable[[], Any], wrong: float):
        self.work, self.wrong, self.results = work, wrong, work()
        for result in self.results:
            if result is not None:
                result.fill_(float("nan"))  # nothing is computed while a GPU records

    def replay(self) -> None:
        for written, found in zip(self.results, self.work(), strict=True):
            if written is not None:
                written.copy_(found * self.wrong)


class Recording:
    """What a walk may record, and how often it did."""

    def __init__(self, wrong: float = 1.0, fails: bool = False):
        self.wrong, self.fails, self.made, self.pools = wrong, fails, 0, 0

    def __call__(self) -> Any:
        self.pools += 1
        return self._record

    def _record(self, work: Callable[[], Any]) -> tuple[Again, Any]:
        self.made += 1
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        graph = Again(work, self.wrong)
        return graph, graph.results


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recording], Recording]:
    def begin(recording: Recording) -> Recording:
        monkeypatch.setattr(translate, "recording_on", lambda _: recording)
        return recording

    return begin


SAMPLERS = {
    "steps": walk_of(steps=6),
    "shifts": walk_of(steps=4, shifts=2),
    "caches": walk_of(steps=8, reuse=Deep(2, 1)),
    "both": walk_of(steps=8, shifts=2, reuse=Deep(3, 2)),
}


@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("size", [SHAPE, (8, 8, 8)], ids=["whole", "tiles"])
def test_a_walk_of_replays_is_the_walk_itself(
    size: Triple, name: str, folds: int, counted: Callable[[Recording], Recording]
) -> None:
    model, sampler = model_of(folds), SAMPLERS[name]
    expected = walked(model, sampler, size)
    recording = counted(Recording())
    assert torch.equal(walked(model, sampler, size), expected)
    assert recording.pools == 1, "one memory for all folds"
    kinds = recording.made / folds
    assert kinds == (2 if name == "caches" else 1 if name == "steps" else kinds), "full and shallow evaluations"
    assert kinds >= 1


@pytest.mark.parametrize("recording", [Recording(wrong=1.01), Recording(fails=True)], ids=["wrong", "fails"])
def test_what_cannot_be_recorded_rightly_runs_as_ever(
    recording: Recording, counted: Callable[[Recording], Recording]
) -> None:
    model = model_of()
    expected = walked(model, SAMPLERS["steps"])
    counted(recording)
    assert torch.equal(walked(model, SAMPLERS["steps"]), expected)
    assert recording.made == 1, "it is not tried again"


def test_few_evaluations_and_large_volumes_are_not_recorded(
    counted: Callable[[Recording], Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recording = model_of(), counted(Recording())
    walked(model, walk_of(steps=replays.AS_EVER))
    assert recording.made == 0
    walked(model, walk_of(steps=replays.AS_EVER + 1))
    assert recording.made == 1
    monkeypatch.setattr(replays, "MOST_VOXELS", 100)
    walked(model, walk_of(steps=6))
    assert recording.made == 1


@torch.no_grad()
def test_an_answer_is_not_overwritten_by_the_next() -> None:
    network = model_of().networks[0]
    asked = Replayed(network, Recording())
    x, t = torch.randn(4, 1, 1, *SHAPE), torch.ones(1)
    answers = [asked(x[i % 4], t, x[0]) for i in range(8)]
    assert asked.kept
    assert all(torch.equal(answers[i], network(x[i % 4], t, x[0])) for i in range(8))


def test_recordings_count_among_the_bytes_of_an_arrangement(counted: Callable[[Recording], Recording]) -> None:
    model = model_of(2)
    sizes = [option.bytes for option in arrangements(model, SHAPE, 10**12)]
    counted(Recording())
    more = arrangements(model, SHAPE, 10**12)
    spec = model.configuration.network
    expected = [before + 2 * replay_bytes(spec, option.tiling.size) for before, option in zip(sizes, more, strict=True)]
    assert [option.bytes for option in more] == expected
    assert replay_bytes(spec, (2**8, 2**8, 2**8)) == 0, "it is not recorded"
    assert replay_bytes(spec, SHAPE) == 4 * math.prod(SHAPE) * (spec.in_channels + 2 * spec.out_channels)
