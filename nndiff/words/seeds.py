"""Seeds of random numbers."""

from __future__ import annotations

import zlib

import numpy as np


def seed_of(*words: int) -> int:
    """Return the seed that belongs to these numbers; other numbers give an unrelated one."""
    return int(np.random.SeedSequence(list(words)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def draw_seed(seed: int, name: str, draw: int) -> int:
    """Return the seed of one draw of one case; it does not depend on the other cases."""
    return seed_of(seed, zlib.crc32(name.encode()), draw)
