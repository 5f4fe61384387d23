"""What computes on this machine: the processor, the graphics cards, and whether both compute as they should.

The processor is read from /proc, without a library. Cards are asked through torch, and their driver through nvidia-smi,
which also knows cards that torch cannot use.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiff.resources.machine import GB, available_cores, available_ram, free_ram
from nndiff.words.problem import Problem

if TYPE_CHECKING:
    from nndiff.resources.convolutions import Convolution

# In which the speed of a CPU shows, as /proc/cpuinfo names them.
SIMD = ("sse4_2", "avx", "avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16", "sve")
SHARED_MEMORY = Path("/dev/shm")  # through which loader processes pass volumes on
LEAST_SHARED = GB
QUERY = ("name", "memory.total", "driver_version")
PATIENCE = 20  # seconds for nvidia-smi, which waits for a driver that hangs
FULL_PRECISION = "train in full precision there: nndiff_train … --set precision=fp32"

Row = dict[str, Any]


def processor() -> tuple[Row, list[Problem]]:
    """Return the processor and its memory, without a library."""
    known = _cpuinfo()
    flags = set((known.get("flags") or known.get("Features") or "").split())
    row = {
        "model": known.get("model name") or platform.processor() or platform.machine(),
        "cores": available_cores(),
        "cores_of_machine": os.cpu_count(),
        "simd": [name for name in SIMD if name in flags],
        "ram_bytes": available_ram(),
        "free_ram_bytes": free_ram(),
    }
    problems = []
    if SHARED_MEMORY.is_dir():
        row["shared_memory_bytes"] = size = shutil.disk_usage(SHARED_MEMORY).total
        if size < LEAST_SHARED:
            problems.append(
                Problem(
                    f"{SHARED_MEMORY} has {size / GB:.2f} GB, too little for processes that pass volumes on.",
                    "start the container with --ipc=host or --shm-size=8g, or train with -np 0",
                )
            )
    return row, problems


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def driver() -> list[Row]:
    """Return the cards that the driver knows; nothing where there is no nvidia-smi, or it fails."""
    words = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [dict(zip(("name", "memory", "driver"), row, strict=False)) for row in rows]


def cards() -> tuple[Row, list[Problem]]:
    """Return torch's build and the cards that it can use, beside those that the driver knows."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    if getattr(torch.version, "hip", None):
        build = f"ROCm {torch.version.hip}"
    known, usable = driver(), torch.cuda.is_available()
    row: Row = {
        "torch": torch.__version__,
        "build": build,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": known[0].get("driver") if known else None,
        "apple_gpu": torch.backends.mps.is_available(),
        "gpus": [_card(number) for number in range(torch.cuda.device_count())] if usable else [],
        "gpus_of_driver": [found["name"] for found in known],
    }
    return row, _of_cards(row)


def _card(number: int) -> Row:
    import torch

    found = torch.cuda.get_device_properties(number)
    try:
        free: int | None = torch.cuda.mem_get_info(number)[0]
    except RuntimeError:  # another program holds all of it, or the card alone
        free = None
    return {
        "name": found.name,
        "memory_bytes": int(found.total_memory),
        "free_bytes": free,
        "compute_capability": f"{found.major}.{found.minor}",
        "bf16": (found.major, found.minor) >= (8, 0),
        "supported": _supported(found.major, found.minor),
    }


def _supported(major: int, minor: int) -> bool:
    """Return whether this build of torch has code for the card: of its generation, or to compile for later ones."""
    import torch

    own = torch.cuda.get_arch_list()
    if getattr(torch.version, "hip", None) or not own:
        return True
    kinds = [(kind, "".join(filter(str.isdigit, number))) for kind, _, number in (arch.partition("_") for arch in own)]
    ready = {(int(number[:-1]), int(number[-1])) for kind, number in kinds if kind == "sm"}
    later = {(int(number[:-1]), int(number[-1])) for kind, number in kinds if kind == "compute"}
    return any(a == major and b <= minor for a, b in ready) or any(pair <= (major, minor) for pair in later)


def _of_cards(row: Row) -> list[Problem]:
    names = ", ".join(row["gpus_of_driver"])
    problems = []
    if row["gpus_of_driver"] and not row["gpus"] and row["build"] == "CPU only":
        what = f"This machine has a GPU ({names}), but the build of torch computes on the CPU only."
        problems.append(Problem(what, "install torch's build for CUDA: documentation/getting-started.md, Install"))
    elif row["gpus_of_driver"] and not row["gpus"]:
        what = f"torch, built for {row['build']}, cannot use the GPU ({names}, driver {row['driver']})."
        problems.append(
            Problem(what, "update the driver, or install the torch build for an older CUDA; see CUDA_VISIBLE_DEVICES")
        )
    for card in row["gpus"]:
        if not card["supported"]:
            what = f"This build of torch has no code for {card['name']} ({card['compute_capability']})."
            remedy = "install a build of torch for this generation of cards, or compute with -device cpu"
            problems.append(Problem(what, remedy, stops=True))
    return problems


def to_test() -> list[str]:
    """Return the devices that can be tested."""
    import torch

    cuda = [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def self_test(device: str) -> tuple[list[Row], list[Problem]]:
    """Return, for each precision of 16 bits, how far convolutions are from those in 32 bits on this device."""
    import torch

    from nndiff.resources.convolutions import BF16, FP16, LARGER, QUICK

    cuda = device.startswith("cuda")
    shapes = QUICK + LARGER if cuda else QUICK
    wanted = [("bf16", torch.bfloat16, BF16), *([("fp16", torch.float16, FP16)] if device != "cpu" else [])]
    rows, problems = [], []
    for name, dtype, bound in wanted:
        try:
            row = {"device": device, "precision": name, **_worst(shapes, device, dtype, bound)}
        except (RuntimeError, TypeError) as error:  # of torch: not implemented there, or its memory is full
            why = str(error).partition("\n")[0][:150]
            row = {"device": device, "precision": name, "status": "not tested", "note": why}
            if name == "bf16":
                problems.append(Problem(f"{device} could not be tested in {name}: {why}", FULL_PRECISION))
        rows.append(row)
        if row["status"] == "wrong":
            what = (
                f"{device} computes a convolution in {name} wrongly: {row['note']}, relative error {row['error']:.2g}."
            )
            remedy = f"{FULL_PRECISION}; update driver and torch"
            problems.append(Problem(what, remedy, stops=name == "bf16"))  # nndiff does not train in fp16
    return rows, problems


def _worst(shapes: tuple[Convolution, ...], device: str, dtype: Any, bound: float) -> Row:
    """Return the worst case of all shapes in both layouts."""
    from nndiff.resources.convolutions import LAYOUTS, convolved

    found = [
        (convolved(shape, device, layout, dtype, bound), f"{shape}, {layout}") for shape in shapes for layout in LAYOUTS
    ]
    worst, where = max(found, key=lambda each: (not each[0].right, each[0].error))
    status = "ok" if worst.right else "wrong"
    note = f"{worst.worst} of {where}"
    return {"cases": len(found), "error": worst.error, "bound": bound, "status": status, "note": note}
