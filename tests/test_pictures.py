"""Laws of the figures of slices: every column can be seen, and a voxel has its true proportions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest

from nndiff import pictures
from nndiff.pictures import slices

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
