import pytest
import torch

from nndiff.imaging.tiles import Tiling, snug
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Box


def test_positions_are_as_nnunet_places_them() -> None:
    """Half a patch a step at most, evenly spread, from face to face."""
    starts = [box.start[0] for box in Tiling((110, 8, 8), (64, 8, 8), 0.5).positions]
    assert starts == [0, 23, 46]
    assert [box.start[0] for box in Tiling((128, 8, 8), (64, 8, 8), 0.5).positions] == [0, 32, 64]
    assert [box.start[0] for box in Tiling((128, 8, 8), (64, 8, 8), 0.0).positions] == [0, 64]


def test_positions_run_x_fastest() -> None:
    boxes = Tiling((8, 8, 12), (8, 4, 8), 0.5).positions
    assert [box.start for box in boxes[:3]] == [(0, 0, 0), (0, 0, 4), (0, 2, 0)]


def test_patch_larger_than_the_volume_is_cut() -> None:
    assert Tiling((5, 20, 7), (8, 8, 8), 0.5).positions[0] == Box((0, 0, 0), (5, 8, 7))


@pytest.mark.parametrize("overlap", [0.0, 0.125, 0.25, 0.5])
@pytest.mark.parametrize("multiple", [1, 2, 4])
def test_snug_tiles_are_the_smallest_of_their_number(overlap: float, multiple: int) -> None:
    for length in (17, 40, 47, 68, 386):
        for count in (1, 2, 3, 4, 8):
            size = snug(length, count, overlap, multiple)
            assert size % multiple == 0
            assert len(Tiling((length, 8, 8), (size, 8, 8), overlap)) <= count
            smaller = size - multiple
            assert smaller <= 0 or len(Tiling((length, 8, 8), (smaller, 8, 8), overlap)) > count


def test_overlap_must_leave_a_step() -> None:
    for overlap in (-0.1, 1.0):
        with pytest.raises(NndiffError, match="0 ≤ overlap < 1"):
            Tiling((8, 8, 8), (4, 4, 4), overlap)


def test_centre_of_a_tile_weighs_most() -> None:
    """Between two neighbours the weights cross half-way; no voxel of a tile is without a say."""
    tiling = Tiling((16, 8, 8), (8, 8, 8), 0.5)
    first, second = (tiling.weight(i)[:, 0, 0] for i in range(2))
    assert first[6] < second[2]
    assert first[5] > second[1]
    assert float(first[7] + second[3]) == pytest.approx(1)
    assert min(weight.min() for weight in tiling.weights()) > 0


def test_weights_equal_the_full_size_gaussians_normalised() -> None:
    """The product of 1-D profiles is the same as dividing each 3-D Gaussian by the sum of all."""
    tiling = Tiling((9, 11, 13), (4, 6, 8), 0.4)
    axes = [torch.arange(p, dtype=torch.float64) - (p - 1) / 2 for p in tiling.patch]
    z, y, x = (torch.exp(-0.5 * (a / (p / 8)) ** 2).clamp_min(1e-3) for a, p in zip(axes, tiling.patch, strict=True))
    bell = z[:, None, None] * y[:, None] * x
    total = torch.zeros(tiling.shape, dtype=torch.float64)
    for box in tiling.positions:
        total[box.slices] += bell
    for box, weight in zip(tiling.positions, tiling.weights(), strict=True):
        assert torch.allclose(weight.double(), bell / total[box.slices], rtol=1e-5)


def test_extract_is_a_view_and_merge_takes_tiles_lazily() -> None:
    volume = torch.randn(2, 3, 9, 8, 7)
    tiling = Tiling((9, 8, 7), (4, 4, 4), 0.5)
    tile = tiling.extract(volume, 1)
    assert tile.shape == (2, 3, 4, 4, 4)
    assert tile.untyped_storage().data_ptr() == volume.untyped_storage().data_ptr()
    merged = tiling.merge(tiling.extract(volume, i) for i in range(len(tiling)))
    assert torch.allclose(merged, volume, atol=1e-6)


def test_half_precision_tiles_are_summed_in_float32() -> None:
    tiling = Tiling((40, 8, 8), (8, 8, 8), 0.75)
    ones = torch.ones(1, 1, 8, 8, 8, dtype=torch.bfloat16)
    merged = tiling.merge([ones] * len(tiling))
    assert merged.dtype == torch.float32
    assert (merged - 1).abs().max() < 1e-6


def test_a_missing_tile_is_noticed() -> None:
    tiling = Tiling((12, 8, 8), (8, 8, 8), 0.5)
    with pytest.raises(ValueError, match="shorter"):
        tiling.merge([torch.ones(1, 1, 8, 8, 8)])
