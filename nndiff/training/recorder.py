"""Training steps as CUDA graphs (resources/recording.py): a forward and backward pass is recorded and replayed.

    first step of a kind      computed as ever, then recorded and replayed: both must agree, or nothing is recorded
    later ones                the inputs are filled anew, and the graph is replayed
    before validation         the recordings are dropped, because their memory serves nothing else; they are made again

Steps are of one kind if their tensors have the same shapes. Where recording is not possible, steps run as ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from nndiff.resources.recording import AGREED, Graph, Record

Input = TypeVar("Input")
Gradients = list[tuple[nn.Parameter, Tensor]]


@dataclass(frozen=True, eq=False)
class Recording(Generic[Input]):
    inputs: list[Input]
    graph: Graph
    loss: Tensor
    gradients: Gradients

    def replayed(self) -> Tensor:
        self.graph.replay()
        for weight, gradient in self.gradients:
            weight.grad = gradient
        return self.loss


class Recorder(Generic[Input]):
    """Computes the gradients of steps, by replaying recordings where it can."""

    def __init__(self, weights: Sequence[nn.Parameter], recording: Callable[[], Record] | None):
        self.weights, self.recording = list(weights), recording  # None: every step runs as ever
        self.refused = ""  # why nothing is recorded any more
        self.record: Record | None = None
        self.agreed, self.kept = set[Hashable](), dict[Hashable, Recording[Input]]()

    def gradients(
        self,
        kind: Hashable,
        inputs: Callable[[Sequence[Input] | None], Iterable[Input]],  # new ones, or the given ones filled anew
        compute: Callable[[Iterable[Input]], Tensor],
    ) -> Tensor:
        """Return compute(inputs), a loss without a graph, and leave its gradients in the weights, which had none."""
        if self.recording is None:
            return compute(inputs(None))
        if kind in self.kept:
            recording = self.kept[kind]
            list(inputs(recording.inputs))
            return recording.replayed()
        given = list(inputs(None))
        expected = None if kind in self.agreed else self._figures(compute(given))
        self._clear()
        try:
            self.kept[kind] = self._recorded(given, compute)
            loss = self.kept[kind].replayed()
            if expected is None or _agree(self._figures(loss), expected):
                self.agreed.add(kind)
                return loss
            self._give_up("a recorded step gave other numbers than the step itself")
        except RuntimeError as error:
            self._give_up(str(error).partition("\n")[0])
        self._clear()
        return compute(given)

    def release(self) -> None:
        """Free the memory of all recordings."""
        self.kept, self.record = {}, None

    def begin_anew(self) -> None:
        """Forget all recordings: from now on steps compute something else."""
        self.release()
        self.agreed = set()

    def _recorded(self, given: list[Input], compute: Callable[[Iterable[Input]], Tensor]) -> Recording[Input]:
        assert self.recording is not None
        self.record = self.record or self.recording()
        graph, loss = self.record(lambda: compute(given))
        return Recording(given, graph, loss, [(w, w.grad) for w in self.weights if w.grad is not None])

    def _give_up(self, why: str) -> None:
        self.release()
        self.recording, self.refused = None, why

    def _clear(self) -> None:
        for weight in self.weights:
            weight.grad = None

    def _figures(self, loss: Tensor) -> list[float]:
        """Return the loss and the norm of the gradients."""
        norms = [weight.grad.norm() for weight in self.weights if weight.grad is not None]
        found: list[float] = torch.stack([loss.float(), torch.stack(norms).norm()]).tolist()
        return found


def _agree(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Return whether the figures agree; those of a step that failed are not finite, and agree with any such step's."""
    return all(
        math.isclose(a, b, rel_tol=AGREED, abs_tol=1e-12) or not (math.isfinite(a) or math.isfinite(b))
        for a, b in zip(found, expected, strict=True)
    )
