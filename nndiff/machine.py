"""What this machine offers a plan: device and its total memory, cores and RAM as the cgroup grants them, disk.

One dial: `-gpu_memory_target`. With it a plan is made for a GPU of that size, wherever the planning happens.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from nndiff.errors import NndiffError
from nndiff.plan import Budget

GB = 10**9


def budget(gpu_memory_target: float | None, disk_folder: Path) -> Budget:
    """The Budget of this machine, or of a GPU of `gpu_memory_target` GB when that is given."""
    if gpu_memory_target is not None and not 0 < gpu_memory_target < math.inf:
        raise NndiffError("-gpu_memory_target is no size.", expected="GB, above 0", found=gpu_memory_target)
    device, name, total, bf16, source = _device(gpu_memory_target)
    return Budget(device, name, total, source, bf16, available_cores(), available_ram(), disk_free(disk_folder))


def _device(target: float | None) -> tuple[str, str, int, bool, str]:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        bf16 = torch.cuda.get_device_capability(0) >= (8, 0)
        if target is None:
            return "cuda", properties.name, int(properties.total_memory), bf16, "found"
        return "cuda", properties.name, int(target * GB), bf16, "-gpu_memory_target"
    if target is not None:
        return "cuda", "any GPU with bf16", int(target * GB), True, "-gpu_memory_target"
    if torch.backends.mps.is_available():
        return "mps", "Apple GPU", available_ram(), False, "RAM, shared with the GPU"
    bf16 = bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))
    return "cpu", "CPU", available_ram(), bf16, "RAM, no GPU found"


def available_cores() -> int:
    """Cores this process may use: affinity and the cgroup's quota, not what the host has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cores()
    return max(1, min(cores, int(quota))) if quota else max(1, cores)


def available_ram() -> int:
    """RAM this process may use in all: the machine's, or the cgroup's limit where that is lower."""
    total = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = _read_number(Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
    return min(total, limit) if limit else total


def free_ram() -> int:
    """RAM that could be taken now without swapping."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return available_ram() // 2
    used = _read_number(Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"))
    return min(available, max(0, available_ram() - used + _cached_files())) if used else available


def disk_free(folder: Path) -> int:
    """Free bytes on the disk that holds `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def _cgroup_cores() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    quota_us = _read_number(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))
    period_us = _read_number(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _cached_files() -> int:
    """Bytes of files that the cgroup counts as used and the kernel gives back when asked."""
    for path, key in (("memory.stat", "inactive_file"), ("memory/memory.stat", "total_inactive_file")):
        try:
            rows = dict(line.split() for line in Path("/sys/fs/cgroup", path).read_text().splitlines())
            return int(rows[key])
        except (OSError, KeyError, ValueError):
            continue
    return 0


def _read_number(*paths: Path) -> int | None:
    for path in paths:
        try:
            return int(path.read_text().strip())
        except (OSError, ValueError):
            continue
    return None
