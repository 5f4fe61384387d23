"""The device that a plan is made for: its memory, its number formats and the processor cores beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """One device. `memory_bytes` is its total memory; the context and the workspace are not yet subtracted."""

    device: str  # cuda | cpu | mps
    device_name: str
    memory_bytes: int
    memory_from: str  # where memory_bytes comes from, as a sentence for the user
    bf16: bool
    cores: int
