"""Laws of the figures of slices: every column can be seen, and a voxel has its true proportions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest

from nndiff import pictures
from nndiff.pictures import Curve, curves, slices

SHAPE = (8, 12, 16)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    figures: list[Any] = []

    class Kept(matplotlib.figure.Figure):
        def savefig(self, *args: Any, **options: Any) -> None:
            figures.append(self)
            super().savefig(*args, **options)

    def draw(*columns: tuple[str, Any], **options: Any) -> list[Any]:
        """The panels, column by column, each from axial to sagittal."""
        monkeypatch.setattr(pictures, "Figure", Kept)
        slices(tmp_path / "a.png", columns, None, "title", **options)
        assert (tmp_path / "a.png").stat().st_size > 0
        return list(figures[-1].axes)

    draw.figures = figures  # type: ignore[attr-defined]
    return draw


def test_a_column_in_other_units_has_its_own_grey_scale(drawn: Any) -> None:
    rng = np.random.default_rng(0)
    source, target = (rng.random(SHAPE, np.float32) * scale for scale in (1.0, 2000.0))
    shared = drawn(("source", source), ("target", target))
    limits = [panel.images[0].get_clim() for panel in shared]
    assert len(set(limits)) == 1
    assert limits[0][1] > 1900
    own = drawn(("source", source), ("target", target), other_units=["source"])
    low, high = own[0].images[0].get_clim()
    assert 0 <= low < 0.1
    assert 0.9 < high <= 1
    assert own[3].images[0].get_clim() == limits[0]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 2.0)])
def test_a_voxel_is_as_wide_and_high_as_it_is(drawn: Any, spacing: tuple[float, float, float]) -> None:
    panels = drawn(("target", np.random.default_rng(0).random(SHAPE, np.float32)), spacing=spacing)
    z, y, x = spacing
    assert [panel.get_aspect() for panel in panels] == [y / x, z / x, z / y]


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_reference_is_seen_from_the_first_epoch_on_and_steps_are_whole(epochs: int, tmp_path: Path) -> None:
    steps = list(range(3, 3 + 3 * epochs, 3))
    seen = []
    for low in (10.0, 20.0):  # a reference that is seen changes the picture where it moves
        panel = Curve("PSNR", steps, [30.0] * epochs, limits=(0, 40), reference=("without a network", [low] * epochs))
        curves(tmp_path / f"{low}.png", [panel], "title")
        seen.append(matplotlib.image.imread(tmp_path / f"{low}.png"))
    assert (seen[0] != seen[1]).any()


def test_the_axis_of_steps_begins_at_0_and_counts_whole_steps(drawn: Any, tmp_path: Path) -> None:
    drawn(("source", np.ones(SHAPE, np.float32)))  # keeps the figures that follow
    curves(tmp_path / "a.png", [Curve("loss", [3], [0.5])], "title")
    (axes,) = drawn.figures[-1].axes
    assert axes.get_xlim()[0] == 0
    assert all(tick == int(tick) for tick in axes.get_xticks())
