"""Tests of the table of graphics cards: names are recognised, and a larger memory never stands for a slower card."""

from __future__ import annotations

import re

import pytest

from benchmarks import gpu
from nndiff.resources.cards import BY_MEMORY, CARDS, card_of
from nndiff.words.budget import Budget

GB = 10**9


def called(name: str, gigabytes: float = 24, bf16: bool = True) -> Budget:
    return Budget("cuda", name, int(gigabytes * GB), "found", bf16, 8)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("Tesla V100-SXM2-32GB", "V100"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
    ],
)
def test_a_driver_calls_it_so(name: str, card: str) -> None:
    found, known = card_of(called(name))
    assert (found.name, known) == (card, True)


@pytest.mark.parametrize("name", ["any GPU with bf16", "NVIDIA T400", "NVIDIA A100-SXM4-80GB MIG 2g.20gb"])
def test_a_card_of_the_same_size_stands_for_others(name: str) -> None:
    found, known = card_of(called(name, 20))
    assert (found.name, known) == ("RTX 3090", False)


def test_more_memory_stands_for_a_faster_card() -> None:
    rates = [card_of(called("any", gigabytes))[0].rate("bf16") for gigabytes in (4, 8, 12, 16, 24, 32, 48, 80, 141)]
    assert rates == sorted(rates)
    assert {name for _, name in BY_MEMORY} <= {card.name for card in CARDS}


def test_a_rate_is_below_both_of_its_limits_and_grows_with_each() -> None:
    for card in CARDS:
        assert card.rate("fp32") < min(card.single * 1e12, 5e9 * card.bandwidth)
        if card.half:
            assert card.rate("fp32") < card.rate("bf16") < min(card.half * 1e12, 10e9 * card.bandwidth)


def test_the_rate_of_the_card_that_was_measured_is_what_kept_it_busy() -> None:
    """Training steps of three plans on an H200: the FLOPs of each over the seconds that its kernels took."""
    rows = [row for row in gpu.load(gpu.RESULTS) if row["section"] == "speed" and "training, channels" in row["case"]]
    busy = [float(re.findall(r"busy for ([\d.]+) s", row["note"])[0]) for row in rows]
    rates = [float(row["tflops"]) * float(row["seconds"]) / seconds for row, seconds in zip(rows, busy, strict=True)]
    h200 = next(card for card in CARDS if card.name == "H200")
    assert len(rates) == 3
    assert min(rates) < h200.rate("bf16") / 1e12 < max(rates)
