"""Tests of recorded steps. Graphs exist on GPUs only: a stand-in computes again what it
recorded, in the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nndiff.diffusion.process import PROCESSES
from nndiff.methods import METHODS
from nndiff.plans.plan import Plan
from nndiff.training import journal
from nndiff.training.batches import Batch
from nndiff.training.epochs import validated
from nndiff.training.job import Job
from nndiff.training.loop import Drawn, Trainer
from nndiff.training.ranks import Ranks
from nndiff.training.recorder import Recorder
from nndiff.training.run import train
from nndiff.words.scheme import Scheme
from tests.training.tiny import SHAPE, batch_of, prepare, request, run_of, tiny_plan, trainer_of

META = torch.device("meta")


class Again:
    """A graph of a CPU: a replay computes again, and writes where the recording wrote."""

    def __init__(self, work: Callable[[], Tensor], weights: Sequence[nn.Parameter], wrong: float = 1.0):
        self.work, self.weights, self.wrong = work, weights, wrong
        self.loss = work()
        self.gradients = [weight.grad for weight in weights]
        for written in (self.loss, *(g for g in self.gradients if g is not None)):
            written.fill_(float("nan"))  # nothing is computed while a GPU records

    def replay(self) -> None:
        for weight in self.weights:
            weight.grad = None
        found = self.work()
        self.loss.copy_(found)
        for weight, gradient in zip(self.weights, self.gradients, strict=True):
            if gradient is not None:
                assert weight.grad is not None
                gradient.copy_(weight.grad * self.wrong)


class Recorded:
    """How often what was done, by the kinds of steps."""

    def __init__(self, trainer: Trainer, wrong: float = 1.0, fails: bool = False):
        self.made, self.pools = 0, 0
        weights = trainer.recorder.weights

        def recording() -> Callable[[Callable[[], Tensor]], tuple[Again, Tensor]]:
            self.pools += 1

            def record(work: Callable[[], Tensor]) -> tuple[Again, Tensor]:
                self.made += 1
                if fails:
                    raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
                graph = Again(work, weights, wrong)
                return graph, graph.loss

            return record

        trainer.recorder = Recorder(weights, recording)


def batches(plan: Plan, steps: int, accumulate: int = 1, inside: Sequence[int] = ()) -> Iterator[list[Batch]]:
    """Two samples a batch; the steps in `inside` have padding."""
    padded = torch.ones(2, 1, *SHAPE, dtype=torch.bool)
    padded[:, :, -1] = False
    for step in range(steps):
        first = 2 * accumulate * step
        yield [
            batch_of(plan, [first + 2 * i, first + 2 * i + 1], inside=padded if step in inside else None)
            for i in range(accumulate)
        ]


def trained(trainer: Trainer, given: Iterator[list[Batch]]) -> tuple[list[float], dict[str, Tensor]]:
    losses = [step.loss for step in trainer.steps(given)]
    return losses, {name: value.clone() for name, value in trainer.weights.items()}


def assert_same(found: tuple[list[float], dict[str, Tensor]], expected: tuple[list[float], dict[str, Tensor]]) -> None:
    assert found[0] == expected[0]
    assert all(torch.equal(value, expected[1][name]) for name, value in found[1].items())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_replayed_steps_are_those_computed_as_ever(accumulate: int) -> None:
    plan = tiny_plan(accumulate=accumulate)
    expected = trained(trainer_of(plan), batches(plan, 5, accumulate, inside=(2, 3)))
    trainer = trainer_of(plan)
    recorded = Recorded(trainer)
    assert_same(trained(trainer, batches(plan, 5, accumulate, inside=(2, 3))), expected)
    assert (recorded.made, recorded.pools) == (2, 1), "a recording for each kind of step, in one memory"


def test_validation_gets_the_memory_of_recordings_and_the_next_step_is_recorded_again(tmp_path: Any) -> None:
    plan = tiny_plan()
    prepare(tmp_path, plan)
    asked = request(tmp_path, plan)
    job = Job.of(asked, Ranks(), None)
    expected = trained(trainer_of(plan), batches(plan, 4))
    trainer = trainer_of(plan)
    recorded = Recorded(trainer)
    steps, losses = trainer.steps(batches(plan, 4)), []
    for step in steps:
        losses.append(step.loss)
        if step.number == 2:
            validated(trainer, job.validation(trainer.run))
            assert trainer.recorder.kept == {}
            assert trainer.recorder.record is None
    assert_same((losses, trainer.weights), expected)
    assert (recorded.made, recorded.pools) == (2, 2)


def test_a_recording_that_gives_other_numbers_is_not_used() -> None:
    plan = tiny_plan()
    expected = trained(trainer_of(plan), batches(plan, 3))
    trainer = trainer_of(plan)
    recorded = Recorded(trainer, wrong=1.01)
    assert_same(trained(trainer, batches(plan, 3)), expected)
    assert recorded.made == 1
    assert trainer.recorder.refused == "a recorded step gave other numbers than the step itself"


def test_where_nothing_can_be_recorded_steps_run_as_ever() -> None:
    plan = tiny_plan()
    expected = trained(trainer_of(plan), batches(plan, 3))
    trainer = trainer_of(plan)
    recorded = Recorded(trainer, fails=True)
    assert_same(trained(trainer, batches(plan, 3)), expected)
    assert recorded.made == 1
    assert trainer.recorder.refused == "CUDA error: operation not permitted when stream is capturing"


def test_a_new_stage_is_recorded_anew(tmp_path: Any) -> None:
    plan = tiny_plan(names=("prdit",), batch_size=2)
    expected = trained(trainer_of(plan, "prdit"), batches(plan, 6))
    trainer = trainer_of(plan, "prdit")
    recorded = Recorded(trainer)
    assert_same(trained(trainer, batches(plan, 6)), expected)
    assert recorded.made == len(plan.configurations["prdit"].stages) > 1


# ---------------------------------------------------------------- what can be recorded


class FromElsewhere(TorchDispatchMode):
    """Notes operations on tensors of the host and on copies of what is there, and values that the host waits for.

    A copy has a memory that no operation returned: torch.tensor and an index by a list make it unseen.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.found, self.seen = list[str](), list(known)  # tensors are held, so that a memory's number names it alone
        self.memories = {self._memory(tensor) for tensor in self.seen}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = ([t for t in tree_leaves(tree) if isinstance(t, Tensor)] for tree in ((args, kwargs), out))
        strange = any(t.device != META or self._memory(t) not in self.memories for t in given)
        if strange or "_local_scalar_dense" in str(func):
            self.found.append(str(func))
        self.seen += [*given, *made]
        self.memories |= {self._memory(tensor) for tensor in (*given, *made)}
        return out

    @staticmethod
    def _memory(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata


@pytest.mark.parametrize("name", [*METHODS, *(f"bridge of {process}" for process in PROCESSES)])
def test_a_step_copies_nothing_from_the_host_and_waits_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # tensors without storage have none
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: torch.float32)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    method, _, process = name.partition(" of ")
    plan = tiny_plan(names=(method,))
    if process:
        configuration = replace(plan.configurations[method], process=Scheme(process, {}))
        plan = replace(plan, configurations={method: configuration})
    configuration = plan.configurations[method]
    trainer = Trainer(plan, method, run_of(configuration), META, Ranks())
    given = batch_of(plan, [0, 1], mask=torch.ones(2, 1, *SHAPE, dtype=torch.bool)).to(META)
    drawn = Drawn(given, torch.rand(2, dtype=torch.float64, device=META), torch.randn(2, 1, *SHAPE, device=META))
    own = [*trainer.network.state_dict().values(), given.target, given.mask, drawn.t, drawn.eps]
    host = FromElsewhere(t for t in (*own, given.source) if t is not None)
    for stage in range(len(configuration.stages)):
        objective = trainer.objective(stage)
        with host:
            trainer._loss_of(trainer.network, objective, drawn).backward()  # copies constants, as the first step does
            host.found.clear()
            trainer._loss_of(trainer.network, objective, drawn).backward()
        assert host.found == []


def test_the_log_says_once_that_steps_are_not_recorded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan(training_steps=3)
    prepare(tmp_path, plan)
    monkeypatch.setattr(journal, "curves", lambda path, *_: path.touch())
    monkeypatch.setattr(journal, "slices", lambda path, *_: path.touch())
    made = Job.trainer

    def failing(self: Job, run: Any) -> Trainer:
        trainer = made(self, run)
        Recorded(trainer, fails=True)
        return trainer

    monkeypatch.setattr(Job, "trainer", failing)
    folder = train(request(tmp_path, plan))
    words = "Steps are right, but slow: they run without a CUDA graph (CUDA error: operation not permitted when"
    assert (folder / "log.txt").read_text().count(words) == 1
