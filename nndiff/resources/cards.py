"""The speed of graphics cards, from their data sheets: what a training step may cost, and how long a training takes.

    rate = 1 / (1 / (SHARE · peak) + 1 / (INTENSITY · bandwidth))      [FLOP per second]

A convolutional network spends part of its time on matrix products and part on moving maps through memory (norms,
activations, sums). One card was measured (documentation/records/gpu.md): SHARE and INTENSITY were set so that the rate
of an H200 is 41 TFLOP per second, where the steps of three plans kept it busy at 33, 42 and 46. Bandwidth decides most
of it, since convolutions of 16 and of 32 channels took the same time there. Other cards follow by the formula. A step
is some four thousand kernels, which are recorded and started together (resources/recording.py); even so the H200 took
0.017 s for a single patch of 96³ voxels.
A training measures its own speed, and `--time_budget` counts in that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nndiff.resources.machine import GB
from nndiff.words.budget import Budget

TERA, GIGA = 1e12, 1e9
SHARE, INTENSITY = 0.3, 10.0  # of the peak; FLOP per byte in 16 bits, half of it in 32
LEAST = 0.015  # seconds, the least that a training step takes


@dataclass(frozen=True)
class Card:
    """One class of cards. Peaks are those of dense products, accumulated in fp32."""

    name: str  # a part of what the driver calls it
    half: float  # TFLOP/s in bf16
    single: float  # TFLOP/s in fp32
    bandwidth: float  # GB/s

    def rate(self, precision: str) -> float:
        """Return the FLOPs per second of a training in this precision."""
        short = precision == "bf16"
        peak, intensity = (self.half, INTENSITY) if short else (self.single, INTENSITY / 2)
        share = SHARE if short else 2.5 * SHARE  # plain fp32 units are easier to fill than matrix units
        return 1 / (1 / (share * peak * TERA) + 1 / (intensity * self.bandwidth * GIGA))


# The first whose words the driver's name contains.
CARDS = (
    Card("B200", 2250, 75, 8000),
    Card("H200", 989, 67, 4800),
    Card("H100 PCIe", 756, 51, 2000),
    Card("H100", 989, 67, 3350),
    Card("A100-PCIE-40GB", 312, 19.5, 1555),
    Card("A100-SXM4-40GB", 312, 19.5, 1555),
    Card("A100", 312, 19.5, 2039),
    Card("A40", 150, 37.4, 696),
    Card("A30", 165, 10.3, 933),
    Card("A10", 125, 31.2, 600),
    Card("L40S", 362, 91.6, 864),
    Card("L40", 181, 90.5, 864),
    Card("L4", 121, 30.3, 300),
    Card("V100", 0, 15.7, 900),
    Card("T4", 0, 8.1, 320),
    Card("RTX 6000 Ada", 364, 91.1, 960),
    Card("RTX A6000", 155, 38.7, 768),
    Card("RTX A5000", 111, 27.8, 768),
    Card("RTX A4000", 77, 19.2, 448),
    Card("RTX 5090", 210, 104.8, 1792),
    Card("RTX 5080", 113, 56.3, 960),
    Card("RTX 4090", 165, 82.6, 1008),
    Card("RTX 4080", 97, 48.7, 717),
    Card("RTX 4070", 58, 29.1, 504),
    Card("RTX 3090", 71, 35.6, 936),
    Card("RTX 3080", 60, 29.8, 760),
    Card("RTX 3070", 41, 20.3, 448),
    Card("RTX 3060", 26, 12.7, 360),
    Card("RTX 2080 Ti", 0, 13.4, 616),
)

# What stands for a card that is not in the table, by GB of memory at least: a slow one of this size.
BY_MEMORY = ((70, "A100"), (40, "RTX A6000"), (20, "RTX 3090"), (12, "RTX A4000"), (0, "RTX 3070"))


def card_of(budget: Budget) -> tuple[Card, bool]:
    """Return the card of a budget, and whether it is known by name; otherwise, one of its size stands for it.

    A part of a card (MIG) is judged by its memory.
    """
    for card in CARDS:
        if re.search(rf"\b{card.name}\b", budget.device_name, re.IGNORECASE) and "MIG" not in budget.device_name:
            return card, True
    alike = next(name for gigabytes, name in BY_MEMORY if budget.memory_bytes >= gigabytes * GB)
    return next(card for card in CARDS if card.name == alike), False
