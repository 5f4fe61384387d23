"""What `benchmarks.gpu` measures on a card, by section; a section is a list of cases, (name, function → figures).

Listing the cases of a section touches no device. A function that raises `Skipped` is not a failure; figures beyond a
bound have the status "wrong".
"""

from __future__ import annotations

import gc
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from statistics import fmean, median
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import contenders, memory, trials
from benchmarks.memory import FULL, HALF, Work
from benchmarks.trials import NAME, PLAIN, Data, baseline, begun, figures_of, in_steps, pair
from nndiff import checkpoint
from nndiff.assemble import asked, build_network, formulation_of
from nndiff.checkpoint import Checkpoint
from nndiff.families.unet import UNetSpec, topology
from nndiff.imaging.tiles import Tiling
from nndiff.networks import blocks, lean, unet
from nndiff.planning.overrides import put_in
from nndiff.plans.plan import Configuration, Plan, Predicted, Stage
from nndiff.resources.convolutions import (
    BF16,
    LAYOUTS,
    QUICK,
    THREE,
    Convolution,
    Difference,
    convolved,
    cudnn,
    difference,
    drawn,
    with_gradients,
)
from nndiff.resources.machine import free_memory
from nndiff.resources.memory import prediction_cost, usable_bytes, usable_now, volume_bytes
from nndiff.sampling.translate import Arrangement, Model, arrangements, build_model, translate
from nndiff.training.loop import Trainer
from nndiff.walk.caches import Deep
from nndiff.walk.layers import Shifts, Tiles
from nndiff.walk.rules import Second
from nndiff.walk.sampler import SamplerPlan
from nndiff.walk.starts import Source
from nndiff.walk.times import Ratio
from nndiff.words.budget import Budget
from nndiff.words.scheme import Scheme
from nndiff.words.spread import Spread
from nndiff.words.strict_json import encode
from nndiff.words.volume import Triple

Figures = dict[str, Any]
Case = tuple[str, Callable[[], Figures]]

# Bounds of relative rms errors, about three times what was found on a CPU. A convolution rounds to bf16 once
# (resources/convolutions.py), norm and activation a few times, a network at every layer (0.009). TF32 has 3 bits more
# than bf16. The gradients of a norm in fp32 are sums over the volume (6e-5).
BF16_CHAIN, BF16_NETWORK, TF32, FP32 = 0.02, 0.05, 0.02, 1e-3
WHOLE_BODY: Triple = (386, 264, 264)
WALKS, MANY = (1, 4, 10), 1000  # evaluations
# Cases of benchmarks.memory: all three recomputations, both precisions, r = 1, 2 and 4, thick slices, predictions.
SMALL_CASES = (0, 2, 3, 5, 6, 8, 11, 12, 16, 19, 22, 27)


class Skipped(Exception):
    """A case that this device cannot run; the message says why."""


TOY_CONVOLUTIONS = QUICK[:2]
CONVOLUTIONS = (
    *(Convolution(2, 16, 16, THREE, FULL, size) for size in ((1, 32, 32), (2, 32, 32), (16, 16, 16))),  # thin, small
    Convolution(1, 3, 5, (1, 3, 3), (1, 2, 2), (9, 33, 35)),  # odd sizes, odd channels
    Convolution(1, 2, 1, THREE, FULL, (33, 31, 29)),
    Convolution(1, 16, 32, THREE, HALF, (193, 132, 132)),
    Convolution(1, 32, 32, THREE, FULL, (193, 132, 132)),  # level 0 of the plan for 24 GB
    Convolution(2, 48, 48, THREE, FULL, (193, 132, 132)),  # … and for 80 GB
    Convolution(1, 64, 128, THREE, HALF, (96, 66, 66)),
    Convolution(1, 128, 128, THREE, FULL, (48, 33, 33)),
    Convolution(1, 128, 128, (1, 1, 1), FULL, (48, 33, 33)),
    Convolution(1, 18, 16, THREE, FULL, (96, 264, 264)),  # the head, at full resolution
)

# Width, patch, batch size and recomputation of the golden plans for whole-body PET (tests/golden/plans), by GB.
GOLDEN: dict[int, tuple[int, Triple, int, str]] = {
    8: (32, (96, 96, 144), 2, "none"),
    24: (32, (144, 144, 144), 2, "none"),
    80: (32, (208, 192, 192), 2, "none"),
}


@dataclass(frozen=True)
class Lab:
    """Where and how large a section is measured."""

    device: str  # cuda | cpu
    toy: bool
    folder: Path  # for data that sections share
    until: float = math.inf  # of time.perf_counter: when the section's time is over
    known: dict[str, float] = field(default_factory=dict)  # what earlier cases of the section measured

    @property
    def on(self) -> torch.device:
        return torch.device(self.device)

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def left(self) -> float:
        return self.until - time.perf_counter()


# ---------------------------------------------------------------- the device


def wait(lab: Lab) -> None:
    if lab.cuda:
        torch.cuda.synchronize()


def freed(lab: Lab) -> None:
    if lab.cuda:
        gc.collect()
        torch.cuda.empty_cache()


def seconds_of(lab: Lab, run: Callable[[], object], times: int = 5, warm: int = 2) -> float:
    """Return the median of the seconds of a run."""
    found = []
    for _ in range(warm + times):
        wait(lab)
        start = time.perf_counter()
        run()
        wait(lab)
        found.append(time.perf_counter() - start)
    return median(found[warm:])


@contextmanager
def peaks(lab: Lab) -> Iterator[Figures]:
    """Yield a dictionary that holds, afterwards, the peaks of allocated and reserved memory; empty on a CPU."""
    found: Figures = {}
    if lab.cuda:
        freed(lab)
        torch.cuda.reset_peak_memory_stats()
    yield found
    if lab.cuda:
        wait(lab)
        found["measured_mb"] = torch.cuda.max_memory_allocated() / 1e6
        found["reserved_mb"] = torch.cuda.max_memory_reserved() / 1e6


@contextmanager
def laid_out(layout: torch.memory_format) -> Iterator[None]:
    """Let networks keep their maps in this layout; they are channels last otherwise."""
    with ExitStack() as stack:
        for module in (blocks, lean, unet):
            stack.enter_context(mock.patch.object(module, "LAST", layout))
        yield


def card(lab: Lab) -> list[Case]:
    return [
        ("device", partial(_device, lab)),
        ("memory", partial(_memory, lab)),
        ("torch", lambda: {"note": torch.__version__}),
        ("CUDA", lambda: {"note": torch.version.cuda or "none"}),
        ("cuDNN", lambda: {"note": str(torch.backends.cudnn.version() or "none")}),
        ("driver", partial(_driver, lab)),
    ]


def _device(lab: Lab) -> Figures:
    if not lab.cuda:
        return {"note": "CPU"}
    found = torch.cuda.get_device_properties(0)
    return {"note": f"{found.name}, compute capability {found.major}.{found.minor}"}


def _memory(lab: Lab) -> Figures:
    if not lab.cuda:
        return {"note": "not asked"}
    torch.cuda.init()
    free, total = torch.cuda.mem_get_info()
    return {"note": f"{total / 1e9:.1f} GB; the context takes {(total - free) / 1e9:.2f} GB, other programs included"}


def _driver(lab: Lab) -> Figures:
    if not lab.cuda:
        return {"note": "none"}
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {"note": subprocess.run(ask, check=True, capture_output=True, text=True).stdout.splitlines()[0].strip()}


# ---------------------------------------------------------------- 1. does the card compute what it should?


def right(lab: Lab) -> list[Case]:
    shapes = TOY_CONVOLUTIONS if lab.toy else CONVOLUTIONS
    convolutions = [
        (f"convolution {shape}, {layout}", partial(_convolved, lab, shape, layout))
        for shape in shapes
        for layout in LAYOUTS
    ]
    lean_ones = [
        (f"norm_silu, {dtype}{', scaled' if film else ''}", partial(_normed, lab, dtype, film))
        for dtype in ("bf16", "fp32")
        for film in (False, True)
    ]
    slabs = [(f"in_slabs, {dtype}", partial(_slabs, lab, dtype)) for dtype in ("bf16", "fp32")]
    networks = [
        ("network fp32 without TF32, against the CPU", partial(_network, lab, "fp32", False, FP32)),
        ("network fp32 as torch runs it, against the CPU", partial(_network, lab, "fp32", True, TF32)),
        ("network bf16, against the CPU in fp32", partial(_network, lab, "bf16", True, BF16_NETWORK)),
    ]
    return [*convolutions, *lean_ones, *slabs, *networks]


def errors(found: Sequence[Tensor], truth: Sequence[Tensor], names: Sequence[str], bound: float) -> Figures:
    return _figures_of(difference(found, truth, names, bound))


def _figures_of(row: Difference) -> Figures:
    figures = {"error": row.error, "largest_error": row.largest, "bound": row.bound, "note": row.worst}
    return {**figures, "status": "ok" if row.right else "wrong"}


def _convolved(lab: Lab, shape: Convolution, layout: str) -> Figures:
    return _figures_of(convolved(shape, lab.device, layout, torch.bfloat16, BF16))


def _normed(lab: Lab, dtype: str, film: bool) -> Figures:
    b, c, groups = 2, 16, 4
    size = (6, 7, 8) if lab.toy else (48, 66, 66)
    x, weight, bias = drawn((b, c, *size), lab.device, 0), drawn((c,), lab.device, 1), drawn((c,), lab.device, 2)
    scales = [0.3 * drawn((b, 2 * c), lab.device, 4)] if film else []
    grad = drawn((b, c, *size), lab.device, 3)

    def plain(x: Tensor, weight: Tensor, bias: Tensor, film: Tensor | None = None) -> Tensor:
        normed = F.group_norm(x, groups, weight, bias, lean.EPS)
        if film is None:
            return F.silu(normed)
        scale, shift = film[..., None, None, None].chunk(2, dim=1)
        return F.silu((1 + scale) * normed + shift)

    def own(x: Tensor, weight: Tensor, bias: Tensor, film: Tensor | None = None) -> Tensor:
        return lean.norm_silu(x, weight, bias, groups, film)

    truth = with_gradients(plain, [t.double() for t in (x, weight, bias, *scales)], grad.double())
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    found = with_gradients(own, [x.to(kind), weight, bias, *scales], grad.to(kind))
    names = ("output", "of x", "of weight", "of bias", "of scale and shift")
    return errors(found, truth, names, BF16_CHAIN if dtype == "bf16" else FP32)


def _slabs(lab: Lab, dtype: str) -> Figures:
    c, size = 16, (60, 20, 20) if lab.toy else (96, 96, 96)
    x, weight = drawn((2, c, *size), lab.device, 0), 0.1 * drawn((c, c, *THREE), lab.device, 1)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32

    def plain(x: Tensor, weight: Tensor) -> Tensor:
        return F.silu(F.conv3d(x, weight.to(x.dtype), padding=1))

    def own(x: Tensor, weight: Tensor) -> Tensor:
        return lean.in_slabs(lambda v: plain(v, weight), 1, [x], [], [weight])

    grad = drawn(x.shape, lab.device, 3)
    with cudnn(tf32=False), mock.patch.multiple(lean, SLAB_VOXELS=2**10, GPU_SLAB_VOXELS=2**10):
        truth = with_gradients(plain, [x, weight], grad)
        found = with_gradients(own, [x.to(kind), weight], grad.to(kind))
    return errors(found, truth, ("output", "of x", "of weight"), BF16_CHAIN if dtype == "bf16" else FP32)


def _network(lab: Lab, precision: str, tf32: bool, bound: float) -> Figures:
    """Compare a small network with weights all drawn, since the last ones of an untrained network are 0."""
    width, size = (8, (16, 16, 16)) if lab.toy else (32, (32, 32, 32))
    spec = replace(_spec(configured(24, lab.toy)), width=width)
    torch.manual_seed(0)
    network = build_network(spec, HALF)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.02 * drawn(weight.shape, "cpu", weight.numel()))
    x_t, condition, grad = (drawn((1, c, *size), "cpu", seed) for seed, c in enumerate((1, 1, spec.out_channels)))
    t = torch.full((1,), 0.5)

    def computed(device: str, precision: str) -> list[Tensor]:
        network.to(device)
        out = asked(network, device, precision)(x_t.to(device), t.to(device), condition.to(device))
        grads = torch.autograd.grad(out, list(network.parameters()), grad.to(device), allow_unused=True)
        flat = torch.cat([g.flatten().cpu() for g in grads if g is not None])
        return [out.detach().cpu(), flat]

    truth = computed("cpu", "fp32")
    with cudnn(tf32=tf32):
        return errors(computed(lab.device, precision), truth, ("output", "of all weights"), bound)


# ---------------------------------------------------------------- 2. memory


def _spec(configuration: Configuration) -> UNetSpec:
    spec = configuration.network
    assert isinstance(spec, UNetSpec)
    return spec


def configured(gigabytes: int, toy: bool, device: str = "cuda") -> Configuration:
    """Return the golden plan of whole-body PET for a card of this size, or the same at a toy size."""
    width, patch, batch, recompute = GOLDEN[gigabytes]
    if toy:
        width, patch = 8, (16, 16, 16)
    spacing = (1.65, 1.65, 1.65)
    multipliers, kernels, strides = topology(patch, HALF, spacing)
    spec = UNetSpec(
        in_channels=2,
        out_channels=2,
        width=width,
        recompute=recompute,
        answers=2,
        multipliers=multipliers,
        kernels=kernels,
        strides=strides,
        blocks=1 if toy else 2,
        head_width=16,
        timed=True,
        errors=1,
        corrects=True,
        sources=(Spread(0.01, 0.07961),),
    )
    stage = Stage("all", Scheme("gradient", {"weight": 0.3}), 1.0, Scheme("posterior", {"low": 0.056}))
    return Configuration(
        budget=Budget(device, "", gigabytes * 10**9, "by hand", True, 8),
        spacing=spacing,
        volume_shape=WHOLE_BODY if not toy else (32, 24, 24),
        puzzle_factor=HALF,
        patch_size=patch,
        batch_size=batch,
        accumulate=1,
        network=spec,
        precision="fp32" if toy else "bf16",  # a CPU takes seconds for a few channels in bf16
        process=Scheme("bridge", {"gamma": 0.0025}),
        prediction="fused",
        source_distance=0.02488,
        open_part=0.005,
        stages=(stage,),
        augmentation=(),
        learning_rate=2e-4,
        warmup_steps=1000,
        training_steps=83000,
        ema_half_life=4150,
        sampler=SamplerPlan(
            Source(), Ratio(1000, 1, high=0.08, low=0.0004), Second(), (Tiles(0.25), Shifts(1)), (), (Deep(1, 1),)
        ),
        predicted=Predicted(0, 0, 0),
        open_curve=(((-1.0, 0.05), (0.0, 0.5), (1.0, 2.0)),),
        grain=0.002,
    )


def works(gigabytes: int, lab: Lab) -> dict[str, Work]:
    """Return the training step and the evaluation of a plan."""
    planned = configured(gigabytes, lab.toy, lab.device)
    load = planned.workload()
    return {"training": Work(load, planned.lesson), "prediction": Work(replace(load, batch_size=1))}


def peak(lab: Lab) -> list[Case]:
    planned: list[Case] = []
    compared: list[Case] = []  # last, because cuDNN's benchmark of so large volumes may take long
    for gigabytes in (24,) if lab.toy else GOLDEN:
        for step, work in works(gigabytes, lab).items():
            planned.append((f"plan for {gigabytes} GB, {step}", partial(_peak, lab, work, False)))
            if step == "training":
                compared.append((f"plan for {gigabytes} GB, {step}, benchmark", partial(_peak, lab, work, True)))
    chosen = [replace(memory.CASES[i], device=lab.device) for i in SMALL_CASES]
    if lab.toy:
        chosen = [replace(chosen[0], patch=(24, 24, 24), width=8)]
    small = [(str(case), partial(_peak, lab, case.work, case.step == "train")) for case in chosen]
    return [*planned, *small, *compared]


def _peak(lab: Lab, work: Work, benchmark: bool) -> Figures:
    cost = memory.predicted(work)
    demand_room(lab, cost.bytes)
    threads = torch.get_num_threads()
    with cudnn(benchmark=benchmark):
        found = memory.measure(work)
    torch.set_num_threads(threads)
    measured = found["measured"]
    first = found.get("first", 0)
    searched = {"note": f"{first / 1e6:.0f} MB in the first step, with cuDNN's search"} if benchmark and first else {}
    return {
        **searched,
        "predicted_mb": cost.bytes / 1e6,
        "measured_mb": measured / 1e6,
        "reserved_mb": found["reserved"] / 1e6,
        "error": cost.bytes / max(measured, 1) - 1,
        "seconds": found["seconds"],
        "status": "ok" if memory.within(cost.bytes, measured) else "wrong",
    }


def demand_room(lab: Lab, needed: int) -> None:
    if not lab.cuda:
        return
    freed(lab)
    free, total = torch.cuda.mem_get_info()
    if needed > min(usable_bytes(total, "cuda"), free):
        raise Skipped(f"needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")


# ---------------------------------------------------------------- 3. speed


def speed(lab: Lab) -> list[Case]:
    cases: list[Case] = [
        ("peak rate, matrix product in bf16", partial(_product, lab)),
        *((f"peak rate, convolution in bf16, {layout}", partial(_rate, lab, layout)) for layout in LAYOUTS),
    ]
    for gigabytes in (24,) if lab.toy else (24, 8, 80):
        for step, work in works(gigabytes, lab).items():
            for layout in LAYOUTS if gigabytes == 24 else ("channels last",):
                cases.append((f"plan for {gigabytes} GB, {step}, {layout}", partial(_step, lab, work, layout)))
    return cases


def _product(lab: Lab) -> Figures:
    n = 256 if lab.toy else 8192
    a = torch.randn(n, n, device=lab.on, dtype=torch.bfloat16)
    return _at_rate(lab, seconds_of(lab, lambda: a @ a, 10), 2 * n**3)


def _rate(lab: Lab, layout: str) -> Figures:
    c, n = (16, 12) if lab.toy else (128, 96)
    x = torch.randn(1, c, n, n, n, device=lab.on, dtype=torch.bfloat16).to(memory_format=LAYOUTS[layout])
    weight = torch.randn(c, c, *THREE, device=lab.on, dtype=torch.bfloat16).to(memory_format=LAYOUTS[layout])
    with cudnn(benchmark=True):
        took = seconds_of(lab, lambda: F.conv3d(x, weight, padding=1))
    return _at_rate(lab, took, 2 * 27 * c**2 * n**3)


def _at_rate(lab: Lab, seconds: float, flops: int) -> Figures:
    rate = flops / seconds / 1e12
    lab.known["rate"] = max(rate, lab.known.get("rate", 0.0))
    return {"seconds": seconds, "tflops": rate, "share": rate / lab.known["rate"]}


def _step(
    lab: Lab, work: Work, layout: str, changed: Callable[[nn.Module], nn.Module] = lambda network: network
) -> Figures:
    cost = memory.predicted(work)
    demand_room(lab, cost.bytes)
    with laid_out(LAYOUTS[layout]), cudnn(benchmark=work.lesson is not None), peaks(lab) as found:
        start = time.perf_counter()
        step = memory.step_of(work, lambda network: changed(network.to(memory_format=LAYOUTS[layout])))
        step()
        wait(lab)
        first = time.perf_counter() - start
        took = seconds_of(lab, step, 1 if lab.toy else 5, 1)
        busy = _busy(lab, step)
    rate = cost.flops / took / 1e12
    share = {"share": rate / lab.known["rate"]} if "rate" in lab.known else {}
    note = "; ".join(filter(None, (f"the first step took {first:.1f} s", busy)))
    return {"seconds": took, "tflops": rate, **share, **found, "note": note}


def _busy(lab: Lab, step: Callable[[], object]) -> str:
    """Return words on how long the device computes in a step: the rest of it, the device waits for launches."""
    if not lab.cuda:
        return ""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        wait(lab)
    kernels = [event for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA]
    seconds = sum(kernel.self_device_time_total for kernel in kernels) / 1e6
    return f"{sum(kernel.count for kernel in kernels)} kernels, busy for {seconds:.3g} s"


# ---------------------------------------------------------------- beside other networks


def peers(lab: Lab) -> list[Case]:
    """Return training steps and evaluations of our bridge, MONAI's and nnU-Net's networks at equal width, batch 1."""
    built: dict[str, Callable[[int, str], contenders.Ready]] = {
        "nndiff": contenders.bridge,
        "MONAI DiffusionModelUNet": contenders.monai,
        "nnU-Net, plain, a regression": partial(contenders.nnunet, name="PlainConvUNet"),
    }
    return [
        (f"{name}, {size}³, bf16, {step}", partial(_beside, lab, build, size, step))
        for size in ((16,) if lab.toy else (96, 128))
        for name, build in built.items()
        for step in ("training", "prediction")
    ]


def _beside(lab: Lab, build: Callable[[int, str], contenders.Ready], size: int, step: str) -> Figures:
    with torch.device(lab.on), cudnn(benchmark=step == "training"), peaks(lab) as found:
        try:
            ready = build(size, "bf16")
        except ImportError as error:
            raise Skipped(f"cannot be built: {error}") from error
        run = ready.train if step == "training" else ready.run
        assert run is not None
        took = seconds_of(lab, run, 1 if lab.toy else 7, 2)
        busy = _busy(lab, run)
    return {"seconds": took, **found, "note": busy}


# ---------------------------------------------------------------- 4. what bf16 costs in quality


HELD, TOY_HELD = 4, 1
EACH = 40.0  # seconds of a training in full precision
MOST_STEPS = 3000


def data_of(lab: Lab) -> Data:
    """Return the demo's low-count PET, simulated, planned and prepared if an earlier section has not done so."""
    done, held = lab.folder / "prepared", TOY_HELD if lab.toy else HELD
    if done.exists():
        return trials.found(Path(done.read_text()), held)
    sizes = {"patch_size": [16, 16, 16] if lab.toy else [40, 64, 64], "batch_size": 2, "puzzle_factor": [2, 2, 2]}
    small = {"network": json.dumps(encode(_spec(configured(24, True))))}  # quick to plan
    sizes |= small if lab.toy else {"network.width": 32, "network.recompute": "none"}
    by_hand = [f"configurations.{NAME}.{key}={value}" for key, value in sizes.items()]
    training, workers = (1, 0) if lab.toy else (trials.TRAINING, None)
    raw, _ = trials.simulated(lab.folder, held, (0.1,), training, workers)
    data = trials.prepared(raw, lab.folder, held, by_hand=by_hand, workers=workers)
    done.write_text(str(data.prepared))
    return data


def in_precision(plan: Plan, precision: str) -> Plan:
    return put_in(plan, NAME, [f"precision={precision}", "accumulate=1"])


def quality(lab: Lab) -> list[Case]:
    return [
        ("data", partial(_data, lab)),
        *((kind, partial(_plain, lab, kind)) for kind in PLAIN),
        ("trained in bf16", partial(_trained, lab, "bf16")),
        ("trained in fp32", partial(_trained, lab, "fp32")),
    ]


def _data(lab: Lab) -> Figures:
    """Prepare the data, and fix the number of steps by those of full precision."""
    data = data_of(lab)
    warm, timed = (1, 2) if lab.toy else (5, 10)
    with cudnn(benchmark=True):
        steps = begun(data, in_precision(data.plan, "fp32"), warm + timed, 0, lab.on)[1]
        took = median([step.seconds for step in steps][warm:])
    each = min(EACH, max(5.0, 0.3 * lab.left()))
    lab.known["steps"] = 3 if lab.toy else max(20, min(MOST_STEPS, int(each / took)))
    many = f"{len(data.training)} training cases, {len(data.held)} held out, {lab.known['steps']:.0f} steps"
    return {"seconds": took, "note": many}


def _plain(lab: Lab, kind: str) -> Figures:
    data = data_of(lab)
    estimates = {case: baseline(data.plan, NAME, data.folder, case, kind) for case in data.held}
    return _figures(data, estimates)


def _figures(data: Data, estimates: dict[str, Any]) -> Figures:
    found = [figures_of(data.plan, values, pair(data.plan, data.folder, case)[1]) for case, values in estimates.items()]
    return {"psnr": fmean(f.psnr for f in found), "ssim": fmean(f.ssim for f in found)}


def _trained(lab: Lab, precision: str) -> Figures:
    if "steps" not in lab.known:
        raise RuntimeError("the number of steps is unknown, because the data could not be prepared")
    data, count = data_of(lab), int(lab.known["steps"])
    plan = in_precision(data.plan, precision)
    with cudnn(benchmark=True):
        trainer, steps = begun(data, plan, count, 0, lab.on)
        taken = []
        for step in steps:
            taken.append(step)
            if lab.left() < 5:
                break
    model = build_model(plan, NAME, [trainer.ema.values], lab.on)
    sampler = plan.configurations[NAME].sampler
    estimates = {}
    for case in data.held:
        source = torch.from_numpy(pair_source(data, case))
        shape = source.shape[1], source.shape[2], source.shape[3]
        options = arrangements(model, shape, usable_now(free_memory(lab.device), lab.device), sampler)
        generator = torch.Generator().manual_seed(0)
        estimates[case] = translate(model, source, shape, sampler, generator, options).numpy()
    note = f"loss of the last steps {fmean(step.loss for step in taken[-50:]):.3g}"
    short = {} if len(taken) == count else {"status": f"wrong: out of time after {len(taken)} of {count} steps"}
    return _figures(data, estimates) | {"seconds": median(step.seconds for step in taken), "note": note} | short


def pair_source(data: Data, case: str) -> Any:
    from nndiff.imaging import store

    return np.array(store.open_case(data.folder, case)["source"])


# ---------------------------------------------------------------- 5. a whole body


def body(lab: Lab) -> list[Case]:
    return [
        *(
            (f"{how}, {many} evaluation{'s' * (many > 1)}", partial(_walked, lab, how, many))
            for how in ("whole", "tiles")
            for many in WALKS
        ),
        *((f"{how}, {MANY} evaluations, extrapolated", partial(_extrapolated, lab, how)) for how in ("whole", "tiles")),
    ]


def untrained(lab: Lab) -> Model:
    """Return the model of the plan for 24 GB with the weights of a network before training."""
    planned = configured(24, lab.toy, lab.device)
    cost = prediction_cost(planned.workload())
    planned = replace(planned, predicted=Predicted(0, cost.bytes, cost.flops))
    torch.manual_seed(0)
    network = build_network(planned.network, planned.puzzle_factor).to(lab.on).eval()
    return Model(planned, (0,), ((-1.0, 1.0),), (network,), formulation_of(planned), lab.on)


def arranged(model: Model, how: str) -> Arrangement:
    """Return the volume as one tile, or in tiles of half its sides; its arrays lie on the device."""
    shape = model.configuration.volume_shape
    half = (shape[0] // 2, shape[1] // 2, shape[2] // 2)
    tiling = Tiling(shape, shape if how == "whole" else half, 0.5)
    load = replace(model.configuration.workload(), patch_size=tiling.size)
    volume = volume_bytes(model.configuration.network, shape)
    return Arrangement(tiling, model.device, prediction_cost(load).bytes + volume)


def _walked(lab: Lab, how: str, many: int) -> Figures:
    model = untrained(lab)
    arrangement = arranged(model, how)
    demand_room(lab, arrangement.bytes)
    expected = many * lab.known.get(f"{how} an evaluation", 0.0)
    if expected > lab.left():
        raise Skipped(f"would take about {expected:.0f} s")
    sampler = in_steps(model.configuration.sampler, many)
    source = drawn((1, *model.configuration.volume_shape), "cpu", 0)
    if lab.cuda and many == WALKS[0]:  # what CUDA and cuDNN load at their first use is not measured
        _predicted(lab, model, [arrangement])
    with cudnn(), peaks(lab) as found:
        start = time.perf_counter()
        out = translate(
            model, source, arrangement.tiling.shape, sampler, torch.Generator().manual_seed(0), [arrangement]
        )
        took = time.perf_counter() - start
    lab.known[f"{how} {many}"] = took
    lab.known[f"{how} an evaluation"] = took / many
    status = {} if bool(out.isfinite().all()) else {"status": "wrong: not finite"}
    tiles = len(arrangement.tiling)
    note = f"{many * tiles} evaluations of the network, {tiles} tiles"
    return {"seconds": took, "predicted_mb": arrangement.bytes / 1e6, **found, "note": note, **status}


def _extrapolated(lab: Lab, how: str) -> Figures:
    times = {many: lab.known[f"{how} {many}"] for many in WALKS if f"{how} {many}" in lab.known}
    if len(times) < 2:
        raise Skipped("needs the seconds of two walks")
    few, more = sorted(times)[-2:]
    each = (times[more] - times[few]) / (more - few)
    return {"seconds": times[more] + (MANY - more) * each, "note": f"{each:.3g} s an evaluation"}


# ---------------------------------------------------------------- 6. going on: after a stop, and in less memory


def resume(lab: Lab) -> list[Case]:
    cases: list[Case] = []
    for label, deterministic in (("as training runs", False), ("deterministic cuDNN", True)):
        for precision in ("fp32",) if lab.toy else ("bf16", "fp32"):
            name = f"{precision}, {label}"
            for way in ("trained twice", "interrupted and resumed", NOT_RECORDED):
                cases.append((f"{way}, {name}", partial(_again, lab, precision, deterministic, way)))
    cases.append(("memory runs out on the whole volume", partial(_retreat, lab)))
    cases.append(("tiles chosen under the same ballast", partial(_chosen, lab)))
    return cases


STEPS, STOPPED = 6, 3
NOT_RECORDED = "trained without a recording"


def _again(lab: Lab, precision: str, deterministic: bool, way: str) -> Figures:
    """Compare the weights of one training with those of a second one, which may have been interrupted.

    Or which ran one kernel after another, where training replays recorded steps.
    """
    data = data_of(lab)
    plan = in_precision(data.plan, precision)
    with cudnn(benchmark=not deterministic, deterministic=deterministic):
        whole = _weights(data, plan, lab, None)
        if way in ("trained twice", NOT_RECORDED):
            other = _weights(data, plan, lab, None, recorded=way != NOT_RECORDED)
        else:
            trainer, steps = begun(data, plan, STEPS, 0, lab.on)
            for _, _ in zip(range(STOPPED), steps, strict=False):
                pass
            path = lab.folder / "interrupted.pt"
            checkpoint.save(path, _saved(trainer, plan))
            other = _weights(data, plan, lab, checkpoint.load(path))
    first = torch.cat([value.flatten() for value in whole.values()]).float()
    second = torch.cat([other[name].flatten() for name in whole]).float()
    error, exact = float((first - second).norm() / first.norm()), torch.equal(first, second)
    twice = f"{precision} {deterministic}"
    if way == "trained twice":
        lab.known[twice] = error
    good = exact or way == "trained twice" or error <= 10 * lab.known.get(twice, 0.0)  # as near as a second training
    note = "bit-exact" if exact else "not bit-exact"
    return {"error": error, "note": note, "status": "ok" if good else "wrong"}


def _weights(data: Data, plan: Plan, lab: Lab, after: Checkpoint | None, recorded: bool = True) -> dict[str, Tensor]:
    trainer, steps = begun(data, plan, STEPS, 0, lab.on, after)
    if not recorded:
        trainer.recorder.recording = None
    for _ in steps:
        pass
    assert trainer.step == STEPS
    if trainer.recorder.refused:
        raise RuntimeError(f"steps were not recorded: {trainer.recorder.refused}")
    return {name: value.detach().cpu().clone() for name, value in trainer.weights.items()}


def _saved(trainer: Trainer, plan: Plan) -> Checkpoint:
    return Checkpoint(
        plan=plan,
        configuration=NAME,
        run=trainer.run,
        seen=(),
        step=trainer.step,
        weights=trainer.weights,
        ema=trainer.ema.values,
        optimizer=trainer.optimizer.state_dict(),
        objectives=dict(trainer.objectives.state_dict()),
    )


def _retreat(lab: Lab) -> Figures:
    """Let memory run out on the whole volume; compare with a prediction in the smaller tiles from the start."""
    model = untrained(lab)
    options = [arranged(model, "whole"), arranged(model, "tiles")]
    demand_room(lab, options[0].bytes)
    used: list[Arrangement] = []
    expected = _predicted(lab, model, options[1:])
    with _short_of_memory(lab, model, options):
        found = _predicted(lab, model, options, used)
    if not used:
        return {"status": "wrong: memory did not run out"}
    error = float((found - expected).norm() / expected.norm())
    return {"error": error, "note": f"went on in {len(used[-1].tiling)} tiles{'' if lab.cuda else ', simulated'}"}


def _chosen(lab: Lab) -> Figures:
    """Let the project choose the tiles for the memory that is left; it should need no retreat."""
    model = untrained(lab)
    whole = [arranged(model, "whole"), arranged(model, "tiles")]
    demand_room(lab, whole[0].bytes)
    used: list[Arrangement] = []
    with _short_of_memory(lab, model, whole), peaks(lab) as found:
        shape, free = model.configuration.volume_shape, free_memory(lab.device)
        options = arrangements(model, shape, usable_now(free, lab.device), model.configuration.sampler)
        if not lab.cuda:
            options = whole[1:]
        _predicted(lab, model, options, used)
    size = "x".join(map(str, options[0].tiling.size))
    note = f"{len(options[0].tiling)} tiles of {size}, {len(used)} retreats, {free / 1e9:.1f} GB free"
    return {**found, "predicted_mb": options[0].bytes / 1e6, "note": note, "status": "wrong" if used else "ok"}


def _predicted(lab: Lab, model: Model, options: Sequence[Arrangement], used: list[Arrangement] | None = None) -> Tensor:
    shape, sampler = model.configuration.volume_shape, model.configuration.sampler
    source, generator = drawn((1, *shape), "cpu", 0), torch.Generator().manual_seed(0)
    told = (lambda _: None) if used is None else used.append
    with cudnn():
        return translate(model, source, shape, sampler, generator, options, on_retreat=told)


@contextmanager
def _short_of_memory(lab: Lab, model: Model, options: Sequence[Arrangement]) -> Iterator[None]:
    """Leave memory for the second arrangement and not for the first; on a CPU its network raises the error instead."""
    if not lab.cuda:
        most = prod(options[1].tiling.size)

        def refuse(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if prod(inputs[0].shape[2:]) > most:
                raise torch.OutOfMemoryError("simulated")

        hook = model.networks[0].register_forward_pre_hook(refuse)
        try:
            yield
        finally:
            hook.remove()
        return
    needed = []
    for arrangement in options:
        with peaks(lab) as found:
            _predicted(lab, model, [arrangement])
        needed.append(found["reserved_mb"] * 1e6 - torch.cuda.memory_allocated())
    freed(lab)
    size = int(torch.cuda.mem_get_info()[0] - fmean(needed))
    ballast = torch.empty(max(0, size), dtype=torch.uint8, device=lab.on)
    try:
        yield
    finally:
        del ballast
        freed(lab)
