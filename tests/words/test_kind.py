"""Tests of modalities: the names that identify them, and what every row of the table must have."""

from dataclasses import replace

import numpy as np
import pytest

from nndiff.imaging.crop import FOREGROUNDS
from nndiff.imaging.normalize import NORMALIZERS
from nndiff.words.errors import NndiffError
from nndiff.words.kind import CT, KINDS, PET, SYNTHRAD_RANGES, kind_by_values, kind_of

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("PET", "pet"),
        ("low-count PET", "pet"),
        ("FDGPET", "pet"),
        ("SUV", "pet"),
        ("NAC", "pet"),
        ("PET/CT", "pet"),
        ("CT", "ct"),
        ("CBCT", "ct"),
        ("ct_attenuation", "ct"),
        ("T1", "mr"),
        ("FLAIR", "mr"),
        ("contrast", "mr"),
        ("ADC", "mr"),
    ],
)
def test_what_a_channel_means_by_its_name(name, kind):
    assert kind_of(name) is KINDS[kind]


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(NndiffError, match="no kind named 'pett'") as raised:
        KINDS["pett"]
    assert raised.value.remedy == "did you mean 'pet'?"


@pytest.mark.parametrize(("lowest", "kind"), [(-1024.0, CT), (-501.0, CT), (-500.0, PET), (0.0, PET)])
def test_a_scan_without_a_name_is_told_by_its_lowest_value(lowest, kind):
    assert kind_by_values(lowest) is kind


@every_kind
def test_law_the_rows_that_a_kind_names_exist(kind):
    """A foreground, a source normaliser and a window that are made of the options given."""
    FOREGROUNDS.make(kind.foreground.name, kind.foreground.options)
    NORMALIZERS.make(kind.source.name, kind.source.options)
    for task in ("translation", "generation"):
        window = kind.window_of(task)
        assert (window is not None) == kind.absolute
        assert window is None or NORMALIZERS.make(window.name, window.options).fit()


@every_kind
def test_law_a_kind_stands_under_its_name_and_can_be_written(kind):
    from pydicom import uid

    assert KINDS[kind.name] is kind
    assert hasattr(uid, kind.dicom_class)
    assert np.dtype(kind.dtype).kind == ("i" if kind.whole_numbers else "f")


@every_kind
@pytest.mark.parametrize("edition", SYNTHRAD_RANGES)
def test_law_a_range_of_metrics_is_a_range(kind, edition):
    bounds = kind.range_of(edition)
    assert bounds is None or bounds[0] < bounds[1]


def test_generation_has_a_window_of_its_own_only_where_the_kind_says_so():
    assert CT.window_of("generation").options == {"low": -1000.0, "high": 1000.0}
    assert CT.window_of("translation").options == {"low": -1024.0, "high": 3071.0}
    assert replace(CT, generation_window=None).window_of("generation") == CT.window
    assert PET.window_of("generation") is None
