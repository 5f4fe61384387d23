"""Tests of what is said of processors and cards, and that a device which computes wrongly is seen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nndiff.resources import convolutions, devices

CARD = {"name": "A card", "compute_capability": "9.0", "bf16": True, "supported": True}
ROW = {"build": "CUDA 12.8", "driver": "550.1", "gpus": [CARD], "gpus_of_driver": ["A card"]}


def test_a_device_that_convolves_wrongly_in_16_bits_stops_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "QUICK", convolutions.QUICK[:2])
    (row,), problems = devices.self_test("cpu")
    assert (row["precision"], row["status"], row["cases"], problems) == ("bf16", "ok", 4, [])
    conv = F.conv3d

    def off(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        out = conv(x, *rest)
        return out * 1.02 if out.dtype == torch.bfloat16 else out

    monkeypatch.setattr(F, "conv3d", off)
    (row,), (problem,) = devices.self_test("cpu")
    assert row["status"] == "wrong"
    assert problem.stops
    assert "precision=fp32" in problem.remedy


def test_gradients_are_tested_too(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = F.conv3d

    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return 1.02 * grad if grad.dtype == torch.bfloat16 else grad

    monkeypatch.setattr(convolutions, "QUICK", convolutions.QUICK[:1])
    monkeypatch.setattr(F, "conv3d", lambda x, weight, *rest: conv(x, Wrong.apply(weight), *rest))
    (row,), problems = devices.self_test("cpu")
    assert (row["status"], len(problems)) == ("wrong", 1)
    assert row["note"].startswith("of weight")


def test_a_device_that_cannot_convolve_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("not implemented for 'BFloat16'\nand much more")

    monkeypatch.setattr(F, "conv3d", fails)
    (row,), (problem,) = devices.self_test("cpu")
    assert (row["status"], row["note"]) == ("not tested", "not implemented for 'BFloat16'")
    assert not problem.stops


@pytest.mark.parametrize(
    ("change", "what", "stops"),
    [
        ({}, None, False),
        ({"gpus": [], "gpus_of_driver": []}, None, False),
        ({"gpus": [], "build": "CPU only"}, "computes on the CPU only", False),
        ({"gpus": []}, "cannot use the GPU (A card, driver 550.1)", False),
        ({"gpus": [CARD | {"supported": False}]}, "has no code for A card (9.0)", True),
    ],
)
def test_a_card_that_torch_cannot_use_is_a_finding(change: dict, what: str | None, stops: bool) -> None:
    problems = devices._of_cards(ROW | change)
    assert [what in problem.what for problem in problems] == ([True] if what else [])
    assert [problem.stops for problem in problems] == ([stops] if what else [])


@pytest.mark.parametrize(
    ("capability", "there"),
    [((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True), ((10, 0), True), ((12, 0), True)],
)
def test_code_for_a_card_is_of_its_generation_or_compiled_for_later_ones(
    capability: tuple[int, int], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90a", "sm_100", "compute_100"])
    assert devices._supported(*capability) is there
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_86"])
    assert devices._supported(*capability) is (capability == (8, 9))


def test_the_driver_is_asked_for_its_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB, 550.54.15'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert devices.driver() == [{"name": "NVIDIA H100 80GB HBM3", "memory": "81559 MiB", "driver": "550.54.15"}]
    assert "computes on the CPU only" in devices.cards()[1][0].what or torch.version.cuda
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    assert devices.driver() == []


def test_the_processor_is_read_where_the_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cpuinfo", lambda: {"model name": "A CPU", "flags": "fpu avx2 avx512f amx_bf16"})
    row, _ = devices.processor()
    assert (row["model"], row["simd"]) == ("A CPU", ["avx2", "avx512f", "amx_bf16"])
    monkeypatch.setattr(devices, "LEAST_SHARED", float("inf"))
    assert ["-np 0" in problem.remedy for problem in devices.processor()[1]] == [True]
