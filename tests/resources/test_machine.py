"""Tests of the resources of a machine: cores, RAM and disk, with the limits of its cgroup."""

import os
from pathlib import Path

import pytest

from nndiff.resources import machine
from nndiff.words.errors import NndiffError

GIB = 2**30


@pytest.fixture
def host(monkeypatch):
    """host({path: text, …}): these are all the files of /sys and /proc that there are; 16 cores, 64 GiB."""

    def fake(files):
        def read_text(path, *_, **__):
            if str(path) in files:
                return files[str(path)]
            raise FileNotFoundError(str(path))

        monkeypatch.setattr(Path, "read_text", read_text)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
        monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}.__getitem__)

    return fake


V2 = "/sys/fs/cgroup/"
V1_CPU, V1_MEMORY = "/sys/fs/cgroup/cpu/cpu.", "/sys/fs/cgroup/memory/memory."


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({V2 + "cpu.max": "400000 100000\n"}, 4),
        ({V2 + "cpu.max": "max 100000\n"}, 16),
        ({V2 + "cpu.max": "50000 100000\n"}, 1),
        ({V2 + "cpu.max": "6400000 100000\n"}, 16),
        ({V2 + "cpu.max": "garbage\n"}, 16),
        ({V1_CPU + "cfs_quota_us": "200000\n", V1_CPU + "cfs_period_us": "100000\n"}, 2),
        ({V1_CPU + "cfs_quota_us": "-1\n", V1_CPU + "cfs_period_us": "100000\n"}, 16),
    ],
)
def test_cores_by_affinity_and_quota(host, files, cores):
    host(files)
    assert machine.available_cores() == cores


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 64),
        ({V2 + "memory.max": f"{8 * GIB}\n"}, 8),
        ({V2 + "memory.max": "max\n"}, 64),
        ({V2 + "memory.max": f"{1000 * GIB}\n"}, 64),
        ({V1_MEMORY + "limit_in_bytes": f"{4 * GIB}\n"}, 4),
        ({V1_MEMORY + "limit_in_bytes": "9223372036854771712\n"}, 64),
    ],
)
def test_ram_is_the_lower_of_host_and_cgroup(host, files, gib):
    host(files)
    assert machine.available_ram() == gib * GIB


MEMINFO = {"/proc/meminfo": f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {32 * GIB // 1024} kB\n"}
LIMIT = {V2 + "memory.max": f"{8 * GIB}"}


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        (MEMINFO, 32),
        ({}, 32),  # nothing is known: half
        ({**MEMINFO, **LIMIT, V2 + "memory.current": f"{6 * GIB}"}, 2),
        ({**MEMINFO, **LIMIT, V2 + "memory.current": f"{9 * GIB}"}, 0),
        ({**MEMINFO, V2 + "memory.current": f"{6 * GIB}"}, 32),
    ],
)
def test_free_ram(host, files, gib):
    host(files)
    assert machine.free_ram() == gib * GIB


@pytest.mark.parametrize(
    ("kind", "current"),
    [("memory.stat", "memory.current"), ("memory/memory.stat", "memory/memory.usage_in_bytes")],
)
def test_files_that_the_kernel_remembers_are_no_lost_memory(host, kind, current):
    """A container that has read its limit's worth of scans has not used it up."""
    key = "inactive_file" if kind == "memory.stat" else "total_inactive_file"
    cache = {V2 + kind: f"anon 5\n{key} {5 * GIB}\nactive_file 7\n", V2 + current: f"{8 * GIB}"}
    host({**MEMINFO, **LIMIT, **cache})
    assert machine.free_ram() == 5 * GIB


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    assert machine.disk_free(tmp_path / "not" / "yet") == pytest.approx(machine.disk_free(tmp_path), rel=0.01)
    (tmp_path / "file").write_text("")
    assert machine.disk_free(tmp_path / "file" / "below") > 0


# ---------------------------------------------------------------- the budget


@pytest.mark.parametrize("target", [0.0, -8.0, float("nan"), float("inf")])
def test_a_memory_target_must_be_a_size(target):
    with pytest.raises(NndiffError, match="gpu_memory_target") as raised:
        machine.budget(target)
    assert str(target) in str(raised.value)


def test_with_a_target_any_machine_plans_for_that_gpu():
    budget = machine.budget(11)
    assert (budget.device, budget.memory_bytes, budget.memory_from) == ("cuda", 11 * 10**9, "-gpu_memory_target")
    assert budget.cores == machine.available_cores()


def test_without_a_gpu_the_budget_is_the_ram(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    budget = machine.budget(None)
    assert (budget.device, budget.memory_bytes) == ("cpu", machine.available_ram())
    assert budget.bf16 in (True, False)


def test_free_memory_of_a_gpu_does_not_depend_on_what_torch_keeps_for_later(monkeypatch):
    total, tensors = 24 * GIB, 3 * GIB

    def free(kept):
        answers = {"memory_allocated": tensors, "memory_reserved": tensors + kept}
        answers["mem_get_info"] = (total - tensors - kept, total)
        for name, answer in answers.items():
            monkeypatch.setattr(f"torch.cuda.{name}", lambda answer=answer: answer)
        return machine.free_memory("cuda")

    assert free(kept=0) == free(kept=5 * GIB) == total - tensors
