"""The evaluations of one walk as CUDA graphs (resources/recording.py): of tiles, steps and shifts that are alike.

    first two evaluations of a kind      as ever: a walk of few evaluations gains nothing
    third                                as ever, then recorded and replayed: both must agree
    from then on                         replayed

Evaluations are of one kind if their tensors have the same shapes, and if both fill a cache of features or both use it.
Volumes above `MOST_VOXELS` are not recorded: there the kernels take longer than starting them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import Tensor, nn

from nndiff.families import NetworkSpec
from nndiff.networks.unet import Cache
from nndiff.resources.recording import AGREED, Graph, Record
from nndiff.words.volume import Triple

AS_EVER = 2  # evaluations of a kind before it is recorded
MOST_VOXELS = 2**22  # an H200 gained nothing at 192x160x160 voxels, and 4.4 times at 96³


def replay_bytes(spec: NetworkSpec, tile: Triple) -> int:
    """Return the bytes of the inputs and of the answers that a recording keeps beside the evaluation itself."""
    voxels = math.prod(tile)
    return 4 * voxels * (spec.in_channels + 2 * spec.out_channels) if voxels <= MOST_VOXELS else 0


@dataclass(frozen=True, eq=False)
class Replay:
    inputs: tuple[Tensor, ...]  # x_t, t, and if there are any, condition and kept feature
    graph: Graph
    answer: Tensor
    feature: Tensor | None  # that the evaluation fills a cache with

    def of(self, given: tuple[Tensor, ...], caches: tuple[Cache, ...]) -> Tensor:
        for own, value in zip(self.inputs, given, strict=True):
            own.copy_(value)
        self.graph.replay()
        if self.feature is not None:
            caches[0].kept, caches[0].stale = self.feature.clone(), False
        return self.answer.clone()


class Replayed:
    """A network, without gradients; its later evaluations are replayed where `recording` can record them."""

    def __init__(self, network: nn.Module, recording: Callable[[], Record] | None):
        self.network, self.recording = network, recording
        self.asked, self.kept = Counter[Hashable](), dict[Hashable, Replay]()
        self.record: Record | None = None

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None, *caches: Cache) -> Tensor:
        if self.recording is None or x_t[0, 0].numel() > MOST_VOXELS:
            return self._answer(x_t, t, condition, *caches)
        uses = [cache.kept for cache in caches if cache.kept is not None and not cache.stale]
        given = tuple(tensor for tensor in (x_t, t, condition, *uses) if tensor is not None)
        tensors = tuple((tensor.shape, tensor.dtype) for tensor in given)
        key: Hashable = (tensors, condition is None, tuple(cache.depth for cache in caches))
        if key in self.kept:
            return self.kept[key].of(given, caches)
        answer = self._answer(x_t, t, condition, *caches)
        self.asked[key] += 1
        if self.asked[key] > AS_EVER:
            try:
                self._keep(key, given, condition is not None, caches, bool(uses), answer)
            except RuntimeError:
                self.recording, self.kept, self.record = None, {}, None  # evaluations go on as ever
        return answer

    def _answer(self, *given: object) -> Tensor:
        answer: Tensor = self.network(*given)
        return answer

    def _keep(
        self,
        key: Hashable,
        given: tuple[Tensor, ...],
        conditioned: bool,
        caches: tuple[Cache, ...],
        uses: bool,
        answer: Tensor,
    ) -> None:
        assert self.recording is not None
        self.record = self.record or self.recording()
        inputs = tuple(tensor.clone() for tensor in given)

        def work() -> tuple[Tensor, Tensor | None]:
            x_t, t, *others = inputs
            condition = others.pop(0) if conditioned else None
            own = [Cache(cache.depth, others[0] if uses else None, stale=not uses) for cache in caches]
            return self._answer(x_t, t, condition, *own), None if uses or not own else own[0].kept

        graph, (recorded, feature) = self.record(work)
        replay = Replay(inputs, graph, recorded, feature)
        again = replay.of(given, tuple(Cache(cache.depth) for cache in caches))
        if not float((again - answer).norm()) <= AGREED * float(answer.norm()):
            raise RuntimeError("a recorded evaluation gave other numbers than the evaluation itself")
        self.kept[key] = replay
