from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage

from nndiff.imaging import crop as module
from nndiff.imaging.crop import body_box, crop, foreground, place
from nndiff.words.errors import NndiffError
from nndiff.words.kind import CT, MR, PET, Kind
from nndiff.words.scheme import Scheme
from nndiff.words.volume import Box


def body(shape: tuple[int, int, int], box: Box, inside: float = 1.0, outside: float = 0.0) -> np.ndarray:
    array = np.full(shape, outside, np.float32)
    array[box.slices] = inside
    return array


def test_ct_is_what_is_denser_than_lung() -> None:
    assert foreground(np.array([[[-1000, -501, -499, 3000]]], np.float32), CT).tolist() == [
        [[False, False, True, True]]
    ]


def test_mr_is_above_a_tenth_of_its_range() -> None:
    values = np.linspace(100, 200, 1001, dtype=np.float32).reshape(1, 1, -1)  # P0.5 = 100.5, P99 = 199
    mask = foreground(values, MR)
    assert np.array_equal(mask, values > 100.5 + 0.1 * 98.5)


def test_pet_line_is_a_share_of_the_peak_whatever_the_unit() -> None:
    box = Box((5, 5, 5), (25, 25, 25))
    for unit in (1.0, 1e4):
        array = body((30, 30, 30), box, inside=unit, outside=0.01 * unit)
        mask = foreground(array, PET)
        assert mask[10:20, 10:20, 10:20].all()
        assert not mask[:3].any()


@pytest.mark.parametrize("kind", [CT, PET, MR], ids=lambda kind: kind.name)
@pytest.mark.parametrize("value", [0.0, -1024.0, 7.0])
def test_constant_is_foreground_throughout(kind: Kind, value: float) -> None:
    assert foreground(np.full((3, 4, 5), value, np.float32), kind).all()


@pytest.mark.parametrize(
    ("rule", "words"),
    [(Scheme("of_peek", {"share": 0.1}), "did you mean 'of_peak'"), (Scheme("above", {"share": 0.1}), "options level")],
)
def test_an_unknown_rule_is_refused(rule: Scheme, words: str) -> None:
    with pytest.raises(NndiffError, match=words):
        foreground(np.arange(8, dtype=np.float32).reshape(2, 2, 2), replace(PET, foreground=rule))


@pytest.mark.parametrize(("noise", "slack"), [(0.01, 2), (0.03, 3), (0.05, 8)])
def test_noise_outside_the_body_of_a_low_count_pet(noise: float, slack: int) -> None:
    """A share of the body's level: at 5 % thousands of voxels lie above the line, and the box is still the body's."""
    rng = np.random.default_rng(0)
    box = Box((10, 20, 15), (50, 60, 55))
    array = body((60, 80, 70), box)
    array[30:33, 40:43, 35:38] = 8.0
    array += rng.normal(0, noise, array.shape) + (array > 0) * rng.normal(0, 0.3, array.shape)
    found = body_box(array.astype(np.float32)[None], [PET], (0, 0, 0))
    assert all(a - slack <= b <= a for a, b in zip(box.start, found.start, strict=True))
    assert all(a <= b <= a + slack for a, b in zip(box.stop, found.stop, strict=True))


def test_small_parts_are_left_out_and_large_ones_kept() -> None:
    array = body((40, 40, 40), Box((10, 10, 10), (20, 20, 20)), 0.0, -1000.0)
    array[1, 1, 1] = 0.0  # 0.1 % of the body: a screw
    array[30:34, 10:14, 10:14] = 0.0  # 6 %: an arm
    assert body_box(array[None], [CT], (0, 0, 0)) == Box((10, 10, 10), (34, 20, 20))


def test_channels_are_joined_each_after_its_kind() -> None:
    ct = body((30, 30, 30), Box((5, 10, 10), (15, 20, 20)), 0.0, -1000.0)
    mr = body((30, 30, 30), Box((10, 10, 10), (25, 20, 20)), 100.0, 0.0)
    assert body_box(np.stack([ct, mr]), [CT, MR], (0, 0, 0)) == Box((5, 10, 10), (25, 20, 20))


def test_margin_stops_at_the_volume() -> None:
    array = body((30, 30, 30), Box((1, 10, 10), (15, 20, 29)), 0.0, -1000.0)
    assert body_box(array[None], [CT], (3, 2, 1)) == Box((0, 8, 9), (18, 22, 30))


def test_nothing_found_is_the_whole_volume() -> None:
    air = np.linspace(-1024, -900, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    assert body_box(air, [CT], (0, 0, 0)) == Box((0, 0, 0), (3, 4, 5))


def test_thinned_box_never_cuts_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every 3rd or 4th voxel looked at, the box may be larger by less than that, never smaller."""
    monkeypatch.setattr(module, "SAMPLE", 1500)
    rng = np.random.default_rng(1)
    for _ in range(20):
        start = rng.integers(0, 15, 3)
        stop = start + rng.integers(10, 25, 3)
        box = Box(tuple(start.tolist()), tuple(stop.tolist()))
        found = body_box(body((40, 41, 42), box, 0.0, -1000.0)[None], [CT], (0, 0, 0))
        assert all(a - 4 < b <= a for a, b in zip(box.start, found.start, strict=True))
        assert all(a <= b < a + 4 for a, b in zip(box.stop, found.stop, strict=True))


def test_strides_thin_the_longest_axis_first() -> None:
    assert module.strides_of((100, 100, 100)) == (1, 1, 1)
    assert module.strides_of((10, 2000, 2000))[0] == 1
    assert (
        np.prod([-(-n // s) for n, s in zip((440, 440, 644), module.strides_of((440, 440, 644)), strict=True)]) <= 4e6
    )


def test_crop_is_a_view_and_place_puts_each_background_outside() -> None:
    array = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    box = Box((1, 0, 2), (3, 2, 5))
    part = crop(array, box)
    assert np.shares_memory(part, array)
    back = place(part, box.start, (3, 4, 5), [-1024.0, 0.5])
    inside = np.zeros((3, 4, 5), bool)
    inside[box.slices] = True
    assert np.array_equal(back[:, inside], array[:, inside])
    assert (back[0][~inside] == -1024).all()
    assert (back[1][~inside] == 0.5).all()


@pytest.mark.parametrize("offset", [(0, 0, 1), (0, -1, 0)])
def test_a_volume_of_the_same_shape_is_moved_too(offset: tuple[int, int, int]) -> None:
    array = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5) + 1
    moved = place(array, offset, (3, 4, 5), [-1.0])
    assert np.array_equal(moved, scipy.ndimage.shift(array, (0, *offset), order=0, cval=-1.0))


@pytest.mark.parametrize("offset", [(0, 0, 0), (1, -2, 3), (-2, 2, 0), (9, 0, 0), (-9, 0, 0)])
def test_place_agrees_with_voxel_by_voxel(offset: tuple[int, int, int]) -> None:
    array = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5) + 1
    placed = place(array, offset, (4, 4, 6), [-1.0])
    for index in np.ndindex(4, 4, 6):
        z, y, x = (i - o for i, o in zip(index, offset, strict=True))
        inside = 0 <= z < 3 and 0 <= y < 4 and 0 <= x < 5
        assert placed[(0, *index)] == (array[0, z, y, x] if inside else -1.0)
