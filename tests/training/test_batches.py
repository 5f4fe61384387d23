"""Laws: batch i depends only on (seed, i), whichever process makes it, and whatever was made before; patches see every
phase of the puzzle's grid equally often; what lies beyond a case is marked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from nndiff import assemble
from nndiff.imaging import store
from nndiff.training.batches import Batch, Batches, Share, cut_out, loader
from nndiff.walk.layers import moved
from nndiff.words.errors import NndiffError
from nndiff.words.scheme import Scheme
from tests.training.tiny import prepare, tiny_plan

CASES = [f"case_{i}" for i in range(5)]
SHAPES = ((9, 8, 7), (5, 9, 12))
ROWS = [
    Scheme("mirror", {"z": 1.0, "y": 1.0, "x": 1.0}),
    Scheme("scale", {}),
    Scheme("contrast", {"probability": 0.7, "strength": 0.3}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five cases of two shapes, smaller and larger than the patch; two with a mask."""
    return prepare(tmp_path_factory.mktemp("batches"), tiny_plan(), shapes=SHAPES, masked=(1, 2)) / "bridge"


@pytest.fixture
def made(folder):
    def make(
        seed: int = 0,
        rows: Any = ROWS,
        patch: Any = (6, 6, 6),
        cases: Any = CASES,
        factor: Any = (1, 1, 1),
        **share: int,
    ) -> Batches:
        shared = Share(**{"batch": 2, "accumulate": 2, **share})
        return Batches(folder, cases, patch, shared, assemble.build_augmentations(rows), seed, (1, 1, 1), factor)

    return make


def same(one: Any, other: Any) -> bool:
    """Bit for bit, of dicts or Batches in lists."""
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, Batch):
        return same(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


# ---------------------------------------------------------------- the law


def test_a_fresh_object_makes_the_same_batch_whatever_was_made_before(made) -> None:
    used = made()
    first = [used[step] for step in range(6)]
    assert same([made()[step] for step in range(6)], first)
    assert same([used[step] for step in reversed(range(6))], first[::-1])


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("first", [0, 3])
def test_any_number_of_loaders_from_any_step_on_makes_the_same_batches(made, workers, first) -> None:
    here = list(loader(made(), 0, 6, 0, pinned=False))
    assert same(list(loader(made(), first, 6, workers, pinned=False)), here[first:])


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_samples_that_one_process_would_accumulate(made, world) -> None:
    """Every rank takes its part; together they take the same samples, with the same content."""
    alone = made(batch=1, accumulate=4)
    for step in range(3):
        parts = [made(batch=1, accumulate=4 // world, rank=rank, world=world)[step] for rank in range(world)]
        together = sorted((batch for part in parts for batch in part), key=lambda batch: batch["numbers"])
        assert same(together, alone[step])


def test_sample_numbers_run_on_without_gap_over_batches_ranks_and_steps() -> None:
    shares = [Share(batch=2, accumulate=3, rank=rank, world=4) for rank in range(4)]
    numbers = [n for step in range(2) for share in shares for batch in share.numbers(step) for n in batch]
    assert sorted(numbers) == list(range(48))
    assert shares[0].samples_a_step == 24


def test_every_round_sees_every_case_once(made, folder) -> None:
    """A round may begin and end within a step; rounds are shuffled apart."""
    batches = made(rows=(), patch=(12, 12, 12), batch=1, accumulate=3)
    corners = {float(store.open_case(folder, name)["target"][0, 0, 0, 0]): name for name in CASES}
    seen = [corners[float(batches.sample(number).target[0, 0, 0, 0])] for number in range(40)]
    rounds = [tuple(seen[i : i + 5]) for i in range(0, 40, 5)]
    assert all(Counter(row) == Counter(CASES) for row in rounds)
    assert len(set(rounds)) > 4


def test_other_seeds_make_other_batches(made) -> None:
    assert not torch.equal(made(seed=0)[0][0]["target"], made(seed=1)[0][0]["target"])


def test_the_same_case_is_cut_and_changed_anew_each_round(made) -> None:
    alone = made(cases=CASES[:1], rows=())
    assert not np.array_equal(alone.sample(0).target, alone.sample(1).target)


def test_numpys_global_state_is_neither_used_nor_moved(made) -> None:
    np.random.seed(5)
    before = np.random.get_state()
    first = made()[0]
    after = np.random.get_state()
    assert np.array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    np.random.seed(6)
    assert same(made()[0], first)


def test_without_workers_or_with_a_batch_is_of_plain_numbers_and_float32(made) -> None:
    (step, *_) = loader(made(), 0, 1, 0, pinned=False)
    assert [type(n) for n in step[0].numbers] == [int, int]
    assert step[0].source.dtype == step[0].target.dtype == torch.float32
    assert [batch.numbers for batch in step] == [[0, 1], [2, 3]]


# ---------------------------------------------------------------- the cut


def test_source_target_and_mask_are_cut_at_one_place(tmp_path) -> None:
    """Each holds the voxel's own number, so a patch says where it came from."""
    numbers = np.arange(9 * 8 * 7, dtype=np.float32).reshape(9, 8, 7)
    arrays = {"source": numbers[None] + 1000, "target": numbers[None], "mask": numbers % 2 == 0}
    store.write_case(tmp_path, "case", arrays, {})
    batches = Batches(tmp_path, ["case"], (4, 5, 7), Share(1, 1), (), 0, (1, 1, 1), (1, 1, 1))
    corners = set()
    for number in range(60):
        sample = batches.sample(number)
        assert sample.target.shape == (1, 4, 5, 7)
        assert np.array_equal(sample.source, sample.target + 1000)
        assert np.array_equal(sample.mask, sample.target[0] % 2 == 0)
        corner = np.unravel_index(int(sample.target[0, 0, 0, 0]), numbers.shape)
        assert np.array_equal(sample.target, cut_out(numbers[None], corner, (4, 5, 7)))
        corners.add(tuple(int(c) for c in corner))
    assert {axis for axis, _, _ in corners} == set(range(6))  # up to the very last place
    assert {axis for _, axis, _ in corners} == set(range(4))
    assert {axis for _, _, axis in corners} == {0}


def test_a_smaller_case_has_its_border_repeated_at_the_far_end(tmp_path) -> None:
    """Along z and y too small, along x large enough to be cut."""
    numbers = np.arange(3 * 4 * 9, dtype=np.float32).reshape(3, 4, 9)
    arrays = {"source": numbers[None] + 1000, "target": numbers[None], "mask": numbers % 2 == 0}
    store.write_case(tmp_path, "case", arrays, {})
    batches = Batches(tmp_path, ["case"], (5, 6, 7), Share(1, 1), (), 0, (1, 1, 1), (1, 1, 1))
    for number in range(10):
        sample = batches.sample(number)
        x = int(sample.target[0, 0, 0, 0])
        piece = np.pad(numbers[:, :, x : x + 7], [(0, 2), (0, 2), (0, 0)], mode="edge")
        assert np.array_equal(sample.target[0], piece)
        assert np.array_equal(sample.source[0], piece + 1000)
        assert np.array_equal(sample.mask, piece % 2 == 0)
        assert sample.inside is not None
        assert np.array_equal(sample.inside, np.pad(np.ones((3, 4, 7), bool), [(0, 2), (0, 2), (0, 0)]))


def test_patches_reach_as_far_as_the_network_pads_a_volume(tmp_path) -> None:
    numbers = np.arange(9 * 8 * 3, dtype=np.float32).reshape(9, 8, 3)
    store.write_case(tmp_path, "case", {"source": numbers[None], "target": numbers[None]}, {})
    batches = Batches(tmp_path, ["case"], (4, 4, 3), Share(1, 1), (), 0, (4, 4, 2), (1, 1, 1))
    padded = np.pad(numbers, [(0, 3), (0, 0), (0, 1)], mode="edge")
    corners = set()
    for number in range(100):
        target = batches.sample(number).target
        z, y, x = (int(c) for c in np.unravel_index(int(target[0, 0, 0, 0]), numbers.shape))
        assert np.array_equal(target[0], padded[z : z + 4, y : y + 4, x : x + 3])
        corners.add((z, y, x))
    assert {z for z, _, _ in corners} == set(range(9))
    assert {y for _, y, _ in corners} == set(range(5))
    assert {x for _, _, x in corners} == {0}  # a patch of 3 is padded to 4 by the network, as the volume is


# ---------------------------------------------------------------- the phases of the puzzle


def numbered(folder: Path, shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Write a case whose voxels hold their own numbers, and return it."""
    numbers = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    store.write_case(folder, "case", {"source": numbers[None], "target": numbers[None]}, {})
    return numbers


@pytest.mark.parametrize("factor", [(2, 2, 2), (1, 2, 2), (4, 4, 4)])
@pytest.mark.parametrize("shape", [(16, 16, 16), (13, 9, 16), (24, 16, 21), (40, 33, 29)])
def test_every_phase_of_the_puzzle_is_trained_about_equally_often(tmp_path, shape, factor) -> None:
    """For cases smaller than the patch, as large, and larger; within five standard errors of the uniform share."""
    numbered(tmp_path, shape)
    batches = Batches(tmp_path, ["case"], (16, 16, 16), Share(1, 1), (), 0, (8, 8, 8), factor)
    samples, phases = 2000, Counter[tuple[int, ...]]()
    for number in range(samples):
        corner = np.unravel_index(int(batches.sample(number).target[0, 0, 0, 0]), shape)
        phases[tuple(int(c) % r for c, r in zip(corner, factor, strict=True))] += 1
    share = 1 / np.prod(factor)
    assert len(phases) == np.prod(factor)
    assert all(abs(n / samples - share) < 5 * np.sqrt(share * (1 - share) / samples) for n in phases.values())


def test_without_a_puzzle_a_patch_that_covers_its_case_is_always_the_case(tmp_path) -> None:
    numbers = numbered(tmp_path, (8, 8, 8))
    batches = Batches(tmp_path, ["case"], (8, 8, 8), Share(1, 1), (), 0, (4, 4, 4), (1, 1, 1))
    for number in range(20):
        sample = batches.sample(number)
        assert np.array_equal(sample.target[0], numbers)
        assert sample.inside is None


def test_a_patch_that_covers_its_case_is_what_a_shift_of_the_puzzle_shows_the_network(tmp_path) -> None:
    numbers = torch.from_numpy(numbered(tmp_path, (8, 8, 8)))
    batches = Batches(tmp_path, ["case"], (8, 8, 8), Share(1, 1), (), 0, (4, 4, 4), (2, 2, 2))
    shifts = [moved(numbers[None, None], by)[0] for by in product((0, 1), repeat=3)]
    for number in range(20):
        target = torch.from_numpy(batches.sample(number).target)
        assert sum(torch.equal(target, shift) for shift in shifts) == 1


# ---------------------------------------------------------------- beyond the case


@pytest.mark.parametrize("rows", [(), ROWS[:1], ROWS], ids=["cut", "mirrored", "all"])
def test_the_padding_and_only_it_is_marked_as_outside_the_case(tmp_path, rows) -> None:
    """Every voxel has its own number, so what occurs once is the case, and what occurs again repeats a border."""
    shape, patch = (5, 8, 11), (8, 8, 8)
    numbers = numbered(tmp_path, shape)
    rows = assemble.build_augmentations(rows)
    batches = Batches(tmp_path, ["case"], patch, Share(1, 1), rows, 0, (4, 4, 4), (2, 2, 2))
    padded = 0
    for number in range(60):
        sample = batches.sample(number)
        assert sample.source is not None
        assert len(np.unique(sample.target)) == (np.prod(patch) if sample.inside is None else sample.inside.sum())
        if sample.inside is not None:
            padded += 1
            assert len(np.unique(sample.target[0][sample.inside])) == sample.inside.sum()
    assert padded == 60  # along z the case is smaller than the patch
    assert numbers.shape == shape


def test_a_batch_marks_the_padding_of_its_samples_and_nothing_where_none_is_padded(made) -> None:
    batch = made(rows=(), patch=(6, 6, 6), batch=5, accumulate=1)[0][0]  # three cases of 9 x 8 x 7, two of 5 x 9 x 12
    assert batch["inside"].shape == (5, 1, 6, 6, 6)
    assert batch["inside"].dtype == torch.bool
    outside = sorted(int((~inside).sum()) for inside in batch["inside"])
    assert outside == [0, 0, 0, 36, 36]
    assert "inside" not in made(rows=(), patch=(5, 6, 6), batch=5, accumulate=1)[0][0]


def test_a_case_without_a_mask_counts_everywhere(made, folder) -> None:
    masks = {}
    batches = made(rows=(), batch=5, accumulate=1, patch=(12, 12, 12))
    batch = batches[0][0]
    for i, number in enumerate(batch["numbers"]):
        masks[number] = (batches.sample(number).mask is None, batch["mask"][i])
    assert batch["mask"].shape == (5, 1, 12, 12, 12)
    assert batch["mask"].dtype == torch.bool
    assert sum(absent for absent, _ in masks.values()) == 3
    for absent, mask in masks.values():
        assert bool(mask.all()) == absent


def test_without_any_mask_there_is_none(made) -> None:
    assert "mask" not in made(cases=CASES[3:])[0][0]


def test_generation_has_no_source(tmp_path) -> None:
    store.write_case(tmp_path, "case", {"target": np.ones((1, 4, 4, 4), np.float32)}, {})
    (step, *_) = loader(
        Batches(tmp_path, ["case"], (4, 4, 4), Share(1, 1), (), 0, (1, 1, 1), (1, 1, 1)), 0, 1, 0, pinned=False
    )
    assert step[0].source is None
    assert step[0].to(torch.device("cpu")).source is None


def test_a_loader_that_dies_is_said_with_its_remedy(made) -> None:
    dying = made(rows=())
    dying.augmentations = (_die,)
    with pytest.raises(NndiffError, match=r"A data-loading process died(.|\n)*-np"):
        list(loader(dying, 0, 2, 1, pinned=False))


def _die(sample: Any) -> Any:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_a_batch_moves_with_all_that_it_holds() -> None:
    flags = torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)
    batch = Batch([1], None, torch.ones(1, 1, 2, 2, 2), flags, flags)
    there = replace(batch).to(torch.device("meta"))
    assert there.target.is_meta
    assert there.mask is not None
    assert there.mask.is_meta
    assert there.inside is not None
    assert there.inside.is_meta
    assert there.numbers == [1]
