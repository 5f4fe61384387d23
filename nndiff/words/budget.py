"""What a plan may use of a machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """One device. `memory_bytes` is its total, context and workspace included."""

    device: str  # cuda | cpu | mps
    device_name: str
    memory_bytes: int
    memory_from: str  # where that number comes from, in words
    bf16: bool
    cores: int
