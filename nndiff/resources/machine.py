"""The resources of this machine: the device and its memory, cores and RAM within the cgroup's limits, and disk space.

`-gpu_memory_target` replaces the memory of the device: the plan is then made for a GPU of that size, on whatever
machine the planning runs.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from nndiff.words.budget import Budget
from nndiff.words.errors import NndiffError

if TYPE_CHECKING:
    import torch

GB = 10**9


def budget(gpu_memory_target: float | None) -> Budget:
    """Return the budget of this machine, or of a GPU of `gpu_memory_target` GB if that is given."""
    if gpu_memory_target is not None and not 0 < gpu_memory_target < math.inf:
        raise NndiffError("-gpu_memory_target must be a memory size.", expected="GB, above 0", found=gpu_memory_target)
    device, name, total, bf16, source = _device(gpu_memory_target)
    return Budget(
        device=device, device_name=name, memory_bytes=total, memory_from=source, bf16=bf16, cores=available_cores()
    )


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


def free_memory(device: str) -> int:
    """Return the bytes that are free now on the device (cuda | cpu | mps).

    Blocks that torch keeps for later count as free: otherwise the tiles of a case would depend on the cases before it.
    """
    if device != "cuda":
        return free_ram()
    import torch

    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0]) + kept


def demand_device(name: str | None) -> str:
    """Return `name`, or the best device of this machine if it is None; refuse a device that the machine lacks."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name is None:
        return next(device for device, present in there.items() if present)
    if not there.get(name, False):
        found = ", ".join(device for device, present in there.items() if present)
        raise NndiffError(
            f"This machine has no {name} device.",
            found=found,
            remedy="pass a device that this machine has with -device",
        )
    return name


def training_device(name: str | None) -> torch.device:
    """Return the device to train on; each rank that torchrun started has its own GPU."""
    import torch

    device = demand_device(name)
    if device != "cuda":
        return torch.device(device)
    torch.cuda.set_device(local := int(os.environ.get("LOCAL_RANK", "0")))
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda", local)


def available_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and the quota of its cgroup."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_cores()
    return max(1, min(cores, int(quota))) if quota else max(1, cores)


def available_ram() -> int:
    """Return the bytes of RAM that this process may use: the machine's RAM, or the limit of the cgroup if lower."""
    total = int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limit = _cgroup_memory()
    return min(total, limit) if limit else total


def free_ram() -> int:
    """Return the bytes of RAM that are free now, without swapping."""
    available = _stated("meminfo", "MemAvailable")
    if available is None:
        return available_ram() // 2
    used = _cgroup_memory_used()
    return min(available, max(0, available_ram() - used)) if used is not None else available


def limit_memory() -> None:
    """Let this process take as much memory as is free now: a file that claims more ends in an error, not the machine.

    Only Linux keeps to it.
    """
    import resource

    taken = _stated("self/status", "VmData")
    if taken is None:
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    free = taken + free_ram()
    resource.setrlimit(resource.RLIMIT_DATA, (free if most == resource.RLIM_INFINITY else min(free, most), most))


def _stated(file: str, name: str) -> int | None:
    """Return the bytes that a file of /proc states by name; None if it does not, as on other systems than Linux."""
    try:
        rows = dict(line.split(":", 1) for line in Path("/proc", file).read_text().splitlines())
        return int(rows[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def disk_free(folder: Path) -> int:
    """Return the free bytes on the disk of `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


# ---------------------------------------------------------------- control groups

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def _groups(controller: str) -> list[Path]:
    """Return the folders of this process's control group and of all groups above it; each may set a limit."""
    folders = []
    for line in _lines(OWN_GROUP):
        _, controllers, group = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            root = CGROUPS / controller if controllers else CGROUPS
            here = root / group.lstrip("/")
            folders += [path for path in (here, *here.parents) if path == root or root in path.parents]
    return [*folders, CGROUPS, CGROUPS / controller]


def _cgroup_memory() -> int | None:
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [_read_number(folder / name) for folder in _groups("memory") for name in names]
    return min((limit for limit in limits if limit), default=None)


def _cgroup_memory_used() -> int | None:
    """Return the memory used by the innermost group that reports it, without file pages that the kernel can free."""
    for folder in _groups("memory"):
        used = _read_number(folder / "memory.current") or _read_number(folder / "memory.usage_in_bytes")
        if used:
            rows = dict(line.split() for line in _lines(folder / "memory.stat"))
            return max(0, used - int(rows.get("inactive_file", rows.get("total_inactive_file", 0))))
    return None


def _cgroup_cores() -> float | None:
    quotas = []
    for folder in _groups("cpu"):
        words = " ".join(_lines(folder / "cpu.max")).split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _read_number(folder / "cpu.cfs_quota_us"), _read_number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None
