"""Laws of imaging: each map has an exact inverse and preserves what it declares to preserve."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nndiff.imaging import io
from nndiff.imaging.crop import crop, place
from nndiff.imaging.normalize import NORMALIZERS
from nndiff.imaging.resample import resample
from nndiff.imaging.tiles import Tiling
from nndiff.words.volume import Box, Grid, Volume

SIGNED_PERMUTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1.0, -1.0), repeat=3)
]
OBLIQUE = np.linalg.qr(np.eye(3) + 0.25 * np.random.default_rng(3).normal(size=(3, 3)))[0]
FEW = settings(max_examples=60, deadline=None, derandomize=True)


def flat(matrix: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in matrix.ravel())


def direction(axes: tuple[int, ...], signs: tuple[float, ...]) -> np.ndarray:
    matrix = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(axes, signs, strict=True)):
        matrix[row, column] = sign
    return matrix


def stored(turn: np.ndarray, spacing: tuple[float, float, float] = (3.0, 2.0, 1.1)) -> tuple[np.ndarray, Grid]:
    array = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    return array, Grid((3, 4, 5), spacing, (-123.456789012345, 1 / 3, 98.7654321), flat(turn))


# ---------------------------------------------------------------- orientation and files


@pytest.mark.parametrize(("axes", "signs"), SIGNED_PERMUTATIONS)
def test_reorienting_is_undone_exactly(axes: tuple[int, ...], signs: tuple[float, ...], tmp_path: Path) -> None:
    array, grid = stored(direction(axes, signs))
    turned, canonical_grid, layout = io.canonical(array, grid)
    assert np.allclose(canonical_grid.matrix, np.eye(3)[:, ::-1])
    assert io.layout_letters(canonical_grid) == "LPS"
    for index in [(0, 0, 0), (1, 2, 1), tuple(n - 1 for n in turned.shape)]:
        (where,) = np.argwhere(array == turned[index])
        assert np.allclose(grid.position(tuple(where)), canonical_grid.position(index), atol=1e-9)
    path = tmp_path / "a.mha"
    io.write(Volume(turned[None], canonical_grid, layout), path)
    again = io.read([path])
    assert again.layout == layout
    assert np.array_equal(again.array[0], turned)


@pytest.mark.parametrize("turn", [direction((2, 1, 0), (1.0, 1.0, 1.0)), OBLIQUE, -OBLIQUE[:, [1, 2, 0]]])
@pytest.mark.parametrize(
    ("ending", "position", "cosine"),
    [(".mha", 0.0, 0.0), (".mhd", 0.0, 0.0), (".nrrd", 0.0, 2e-14), (".nii.gz", 1e-4, 1e-6), (".nii", 1e-4, 1e-6)],
)
def test_what_is_written_lies_where_the_source_lay(
    turn: np.ndarray, ending: str, position: float, cosine: float, tmp_path: Path
) -> None:
    array, grid = stored(turn, (3.000000001, 0.7, 1.1))
    path = tmp_path / f"a{ending}"
    io.write(Volume(*_canonical(array, grid)), path)
    found = io.read([path])
    assert found.layout is not None
    file = found.layout.grid
    assert file.shape == grid.shape
    assert np.abs(np.subtract(file.origin, grid.origin)).max() <= position
    assert np.abs(np.subtract(file.direction, grid.direction)).max() <= cosine
    assert np.abs(np.subtract(file.spacing, grid.spacing)).max() <= cosine
    assert np.array_equal(found.array, _canonical(array, grid)[0])

    second = tmp_path / f"b{ending}"
    io.write(found, second)
    again = io.read([second])
    assert again.layout is not None
    assert np.abs(np.subtract(again.layout.grid.direction, file.direction)).max() <= cosine
    assert np.abs(np.subtract(again.layout.grid.origin, file.origin)).max() <= position
    assert np.array_equal(again.array, found.array)


def _canonical(array: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid, Any]:
    turned, canonical_grid, layout = io.canonical(array, grid)
    return turned[None], canonical_grid, layout


# ---------------------------------------------------------------- crop and intensities


@given(st.data())
@FEW
def test_placing_a_crop_back_is_the_identity_inside(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 6)) for _ in range(3))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    box = Box(start, stop)  # type: ignore[arg-type]
    array = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    back = place(crop(array, box), box.start, shape, [-7.0, 9.0])  # type: ignore[arg-type]
    assert np.array_equal(crop(back, box), crop(array, box))
    outside = np.ones(shape, bool)
    outside[box.slices] = False
    assert (back[0][outside] == -7).all()
    assert (back[1][outside] == 9).all()


OPTIONS: dict[str, dict[str, float]] = {"fixed": {"low": -1024.0, "high": 3071.0}}  # what has no default


@pytest.mark.parametrize("name", list(NORMALIZERS))
def test_normalising_is_undone_to_rounding_and_clips_nothing(name: str) -> None:
    rng = np.random.default_rng(0)
    channel = rng.gamma(0.5, 400.0, size=(12, 20, 20)).astype(np.float32)
    channel[0, 0, 0] = 60_000.0  # far beyond any percentile: a lesion
    affine = NORMALIZERS[name](**OPTIONS.get(name, {})).fit(channel, channel > 50)
    normalised = affine.forward(channel)
    assert normalised.dtype == np.float32
    rounding = np.finfo(np.float32).eps * (np.abs(channel) + abs(affine.offset))
    assert (np.abs(affine.inverse(normalised) - channel) <= rounding).all()
    order = np.argsort(channel, axis=None)
    assert (np.diff(normalised.ravel()[order]) >= 0).all()
    assert normalised.argmax() == channel.argmax()


# ---------------------------------------------------------------- resampling


def phantom(shape: tuple[int, int, int], width: float) -> np.ndarray:
    """Smooth blobs in relative coordinates, nothing at the faces; `width` is sigma over the extent."""
    axes = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij")
    blobs = [(0.5, 0.5, 0.5, 1.0), (0.42, 0.6, 0.55, -0.5), (0.6, 0.45, 0.4, 0.7)]
    total = sum(
        h * np.exp(-sum((a - c) ** 2 for a, c in zip(axes, at, strict=True)) / (2 * width**2)) for *at, h in blobs
    )
    return np.asarray(total, dtype=np.float32)[None]


@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ((30, 32, 34), (45, 50, 61)),
        ((30, 32, 34), (31, 33, 68)),
        ((45, 50, 61), (30, 32, 34)),
        ((60, 64, 68), (30, 63, 50)),
        ((30, 50, 34), (45, 32, 34)),
    ],
)
def test_resampling_is_undone_on_band_limited_volumes(shape: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    array = phantom(shape, 0.1)
    there = resample(array, other)
    back = resample(there, shape)
    assert np.abs(back - array).max() <= 1e-3 * np.abs(array).max()
    assert np.abs(there - phantom(other, 0.1)).max() <= 1e-2  # and the way there is the same object


@given(st.tuples(*[st.integers(1, 16)] * 3), st.tuples(*[st.integers(0, 12)] * 3))
@FEW
def test_coarse_to_fine_to_coarse_is_the_identity(coarse: tuple[int, int, int], more: tuple[int, int, int]) -> None:
    fine = tuple(n + m for n, m in zip(coarse, more, strict=True))
    array = np.random.default_rng(0).normal(size=(1, *coarse)).astype(np.float32)
    assert np.abs(resample(resample(array, fine), coarse) - array).max() < 3e-5  # type: ignore[arg-type]


def test_equal_shape_is_bit_identical() -> None:
    array = np.random.default_rng(0).normal(size=(2, 5, 6, 7)).astype(np.float32)
    assert resample(array, (5, 6, 7)).tobytes() == array.tobytes()


# ---------------------------------------------------------------- tiles

tilings = st.builds(
    Tiling,
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.floats(0.0, 0.8),
)


@given(tilings)
@FEW
def test_tile_weights_sum_to_one_everywhere(tiling: Tiling) -> None:
    total = torch.zeros(tiling.shape)
    for box, weight in zip(tiling.positions, tiling.weights(), strict=True):
        assert weight.shape == box.shape
        assert weight.min() > 0
        total[box.slices] += weight
    assert (total - 1).abs().max() < 1e-5
    assert len(set(tiling.positions)) == len(tiling.positions)


@given(tilings)
@FEW
def test_an_identity_network_gives_back_the_volume(tiling: Tiling) -> None:
    volume = torch.rand(1, 2, *tiling.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    merged = tiling.merge(tiling.extract(volume, i) for i in range(len(tiling)))
    assert (merged - volume).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_tile_is_no_tiling_to_the_bit(dtype: torch.dtype) -> None:
    tiling = Tiling((6, 7, 8), (8, 8, 8), 0.5)
    assert (tiling.weight(0) == 1).all()
    volume = torch.randn(1, 2, 6, 7, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    volume[0, 0, 0, 0, 0] = -0.0
    merged = tiling.merge([tiling.extract(volume, 0)])
    assert merged.dtype == torch.float32
    assert merged.view(torch.int32).equal(volume.float().view(torch.int32))
