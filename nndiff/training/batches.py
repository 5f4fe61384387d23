"""Training batches: batch i depends only on (seed, i), whichever process makes it and however many ranks there are.

Sample n = i·G + j of step i (G samples per step, over all ranks) takes case π_e(n mod cases), where π_e is the
permutation of round e = n div cases, and its patch is cut out with random numbers from (seed, n). A run that was killed
therefore continues with exactly the batches that it would have seen.

The first voxel c of a patch of p voxels is drawn uniformly along each axis of a case of n voxels:

    0 ≤ c < max(0, n' - p') + r          n', p': n and p, padded as the network pads;  r: the puzzle's factor

The number of positions is a multiple of r, so the puzzle's grid lies on the case at each of its r phases equally often,
also where the patch covers the whole case. The network meets the same positions in prediction: a volume padded at its
far end, from which a shift of the puzzle's grid cuts up to r - 1 voxels at the near end (walk/layers.py).
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nndiff.families.family import padded
from nndiff.imaging import store
from nndiff.imaging.augment import Augmentation, Sample, augmented
from nndiff.words.errors import NndiffError
from nndiff.words.stopping import STOPPING
from nndiff.words.volume import Mask, Triple

PERMUTATION, POSITION, AUGMENT = 0, 1, 2  # separate streams of random numbers
AHEAD = 3  # batches that each worker prepares ahead


@dataclass(frozen=True)
class Share:
    """The samples of a step that this rank computes.

    Batch j of the `accumulate` batches begins with sample (j·world + rank)·batch of the step.
    """

    batch: int
    accumulate: int
    rank: int = 0
    world: int = 1

    @property
    def samples_a_step(self) -> int:
        return self.batch * self.accumulate * self.world

    def numbers(self, step: int) -> list[list[int]]:
        """Return the sample numbers of each accumulated batch."""
        first = step * self.samples_a_step
        starts = [first + (j * self.world + self.rank) * self.batch for j in range(self.accumulate)]
        return [list(range(start, start + self.batch)) for start in starts]


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of training samples."""

    numbers: list[int]  # of the samples
    source: Tensor | None  # [B, C, z, y, x]
    target: Tensor  # [B, C', z, y, x]
    mask: Tensor | None  # [B, 1, z, y, x]; all True for a case without a mask
    inside: Tensor | None  # [B, 1, z, y, x]; False in the padding beyond a case; None if no sample is padded

    def to(self, device: torch.device) -> Batch:
        source, target, mask, inside = (
            None if tensor is None else tensor.to(device, non_blocking=True) for tensor in self._tensors
        )
        assert target is not None
        return Batch(self.numbers, source, target, mask, inside)

    @property
    def kind(self) -> Hashable:
        """Return what batches have in common whose tensors can take over each other's values."""
        return tuple(None if tensor is None else tensor.shape for tensor in self._tensors)

    def fill(self, other: Batch) -> None:
        """Take over the values of a batch of the same kind, which may be elsewhere."""
        for own, given in zip(self._tensors, other._tensors, strict=True):
            if own is not None and given is not None:
                own.copy_(given, non_blocking=True)

    @property
    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.source, self.target, self.mask, self.inside


class Batches(Dataset[list[dict[str, Any]]]):
    """A dataset that maps step i to its batches, as plain dicts that can be passed between processes."""

    def __init__(
        self,
        folder: Path,
        cases: Sequence[str],
        patch: Triple,
        share: Share,
        augmentations: Sequence[Augmentation],
        seed: int,
        multiple: Triple,  # to which the network pads every axis
        puzzle_factor: Triple,
    ):
        self.folder, self.cases, self.patch, self.share = folder, list(cases), patch, share
        self.augmentations, self.seed = tuple(augmentations), seed
        self.multiple, self.puzzle_factor = multiple, puzzle_factor
        self.opened: dict[str, dict[str, npt.NDArray[Any]]] = {}

    def __getitem__(self, step: int) -> list[dict[str, Any]]:
        return [self._batch(numbers) for numbers in self.share.numbers(step)]

    def _batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        samples = [self.sample(number) for number in numbers]
        batch: dict[str, Any] = {"numbers": list(numbers), "target": _stacked([s.target for s in samples])}
        if samples[0].source is not None:
            batch["source"] = _stacked([s.source for s in samples if s.source is not None])
        batch |= _flags("mask", [s.mask for s in samples], self.patch)
        batch |= _flags("inside", [s.inside for s in samples], self.patch)
        return batch

    def sample(self, number: int) -> Sample:
        turn, place = divmod(number, len(self.cases))
        order = np.random.default_rng([PERMUTATION, self.seed, turn]).permutation(len(self.cases))
        case = self._case(self.cases[order[place]])
        shape, patch = (padded(size, self.multiple) for size in (case["target"].shape[1:], self.patch))
        room = [max(0, n - p) + r for n, p, r in zip(shape, patch, self.puzzle_factor, strict=True)]
        drawn = np.random.default_rng([POSITION, self.seed, number]).integers(0, room)
        corner = [min(int(c), n - 1) for c, n in zip(drawn, case["target"].shape[1:], strict=True)]
        cut = {name: cut_out(array, corner, self.patch) for name, array in case.items()}
        inside = inside_of(case["target"].shape[1:], corner, self.patch)
        sample = Sample(cut.get("source"), cut["target"], cut.get("mask"), inside)
        return augmented(self.augmentations, sample, [AUGMENT, self.seed, number])

    def _case(self, name: str) -> dict[str, npt.NDArray[Any]]:
        if name not in self.opened:
            self.opened[name] = store.open_case(self.folder, name, verify=False)  # the training began with that
        return self.opened[name]


def cut_out(array: npt.NDArray[Any], corner: Sequence[int], patch: Triple) -> npt.NDArray[Any]:
    """Return the patch at `corner`, [..., Z, Y, X] → [..., *patch].

    Beyond the case its border is repeated, as in the padding of the network.
    """
    z, y, x = (slice(c, c + p) for c, p in zip(corner, patch, strict=True))
    piece = np.array(array[..., z, y, x])
    missing = [(0, p - n) for n, p in zip(piece.shape[-3:], patch, strict=True)]
    if not any(after for _, after in missing):
        return piece
    return np.pad(piece, [(0, 0)] * (piece.ndim - 3) + missing, mode="edge")


def inside_of(shape: Sequence[int], corner: Sequence[int], patch: Triple) -> Mask | None:
    """Return where the patch at `corner` lies inside a case of this shape: [*patch], or None if it does everywhere."""
    z, y, x = (n - c for n, c in zip(shape, corner, strict=True))
    if all(n >= p for n, p in zip((z, y, x), patch, strict=True)):
        return None
    inside = np.zeros(patch, dtype=bool)
    inside[:z, :y, :x] = True
    return inside


def _deaf(worker: int) -> None:
    """Ignore signals that ask to stop: the training decides when, and its end ends the worker."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)


def loader(batches: Batches, first: int, last: int, workers: int, pinned: bool) -> Generator[list[Batch], None, None]:
    """Yield the batches of the steps first … last - 1, prepared by `workers` processes; 0 prepares them here.

    The processes end when the generator is closed.
    """
    options: dict[str, Any] = {"prefetch_factor": AHEAD, "persistent_workers": True} if workers else {}
    options |= {"worker_init_fn": _deaf} if workers else {}
    loaded = DataLoader(
        batches, batch_size=None, sampler=range(first, last), num_workers=workers, pin_memory=pinned, **options
    )
    try:
        for step in loaded:
            yield [
                Batch([int(n) for n in b["numbers"]], b.get("source"), b["target"], b.get("mask"), b.get("inside"))
                for b in step
            ]
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise NndiffError(
            "A data-loading process died; most likely the machine ran out of memory.",
            found=str(error).partition("\n")[0],
            remedy="continue with --c and fewer processes (-np 1, or -np 0 to load in the training process)",
        ) from error


def _flags(name: str, given: Sequence[Mask | None], patch: Triple) -> dict[str, Tensor]:
    """Return the stacked flags of all samples, True where a sample has none; nothing if no sample has any."""
    if all(flags is None for flags in given):
        return {}
    everywhere = np.ones(patch, dtype=bool)
    return {name: _stacked([(everywhere if flags is None else flags)[None] for flags in given])}


def _stacked(arrays: Sequence[npt.NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
