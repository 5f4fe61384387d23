"""What `peers` measures: nndiff and other libraries, each used as its own documentation shows, on the same work.

    contender.build(size, precision) → Ready        ready.run() … ready.train() …

A group is one kind of work, with the rows that are compared. All inputs are random volumes with one channel and a
batch of 1; a translation sees the source beside x_t. The libraries are imported only where they are used.

    networks    run: a forward pass without gradients; train: a training step                  size: voxels per axis
    sampling    run: one evaluation and one step of the sampler; `evaluations` per volume      size: voxels per axis
    tiles       run: a volume split into tiles that overlap by half, and merged again          size: of a tile
    up, down    run: a volume resampled with cubic splines to 1.5 or 0.7 times its shape       size: voxels per axis
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiff.assemble import asked, autocast, build_network, build_objective, formulation_of
from nndiff.diffusion.walk import Course, walk
from nndiff.families.family import Channels, Rung
from nndiff.families.unet import UNetSpec
from nndiff.imaging.resample import matrix, resample
from nndiff.imaging.tiles import Tiling
from nndiff.methods.bridge import SHOWN_STEPS
from nndiff.methods.common import GRADIENTS, HIGHEST, LOWEST
from nndiff.plans.plan import Lesson, Stage, Workload
from nndiff.resources import memory
from nndiff.resources.recording import recording_on
from nndiff.sampling.compose import tiled
from nndiff.training.ema import EMA
from nndiff.training.loop import CLIP_NORM, WEIGHT_DECAY
from nndiff.training.recorder import Recorder
from nndiff.walk.part import STEPS
from nndiff.walk.rules import Second
from nndiff.walk.times import Ratio
from nndiff.words.scheme import Scheme
from nndiff.words.volume import Triple

WIDTH = 32
HALF, FULL = (2, 2, 2), (1, 1, 1)
SPACING = (1.0, 1.0, 1.0)
OVERLAP, TILES = 0.5, 2.5  # of tiles; edge of the volume, in tiles
UP, DOWN = 1.5, 0.7
DDPM_STEPS = 1000  # MONAI's default, as in Ho et al. 2020
DDIM_STEPS = 50  # Song et al. 2021, table 1: from here on, more steps gain little
FLOW_STEPS = 30  # the example in the documentation of MONAI's RFlowScheduler
SMALLEST_MAP = 4  # nnU-Net's UNet_featuremap_min_edge_length
MOST_FEATURES = 320  # nnU-Net's UNet_max_features_3d
PLAIN, ENCODER, DECODER = 2, (1, 3, 4, 6, 6, 6, 6), 1  # nnU-Net's convolutions and blocks per stage
OPEN_PART = 0.1

# What the bridge teaches: the planned prediction and objective, with an open part of 0.1.
BRIDGE = Lesson(
    process=Scheme("bridge", {"gamma": OPEN_PART / 2}),
    prediction="fused",
    source_distance=0.5,
    open_part=OPEN_PART,
    stages=(Stage("all", Scheme("gradient", {"weight": GRADIENTS}), 1.0, Scheme("posterior", {})),),
)


@dataclass
class Ready:
    """What is ready to be run."""

    run: Callable[[], object]
    train: Callable[[], object] | None = None
    weights: int = 0
    evaluations: int = 1  # of the network, per volume
    error: Callable[[], float | None] = lambda: None  # of the last run, where the right result is known


@dataclass(frozen=True)
class Contender:
    name: str
    build: Callable[[int, str], Ready]
    precision: str = "fp32"
    base: bool = False  # ratios of the rows with this precision are to this one
    needs: str = ""  # the library; "": nndiff itself


class TrainingStep:
    """A training step: loss, backward pass, clipping, AdamW and, if there is something to average, the EMA.

    AdamW's moments are made before the first step, so that every step needs the same memory.
    """

    def __init__(self, weights: Sequence[nn.Parameter], backward: Callable[[], None], averaged: nn.Module | None):
        self.weights, self.backward, self.averaged = list(weights), backward, averaged
        self.optimiser: torch.optim.Optimizer | None = None
        self.steps = 0

    def __call__(self) -> None:
        if self.optimiser is None:
            self.optimiser = self._begun()
        self.optimiser.zero_grad(set_to_none=True)
        self.backward()
        nn.utils.clip_grad_norm_(self.weights, CLIP_NORM)
        self.optimiser.step()
        self.steps += 1
        if self.averaged is not None:
            self.ema.update(self.averaged, self.steps)

    def _begun(self) -> torch.optim.Optimizer:
        if self.averaged is not None:
            self.ema = EMA(self.averaged, 1000)
        optimiser = torch.optim.AdamW(self.weights, 1e-4, weight_decay=WEIGHT_DECAY, fused=True)
        for weight in self.weights:
            weight.grad = torch.zeros_like(weight)
        optimiser.step()
        return optimiser


def volume(size: int) -> Tensor:
    return torch.randn(1, 1, size, size, size)


def silent(network: Callable[..., Tensor], precision: str, *inputs: Tensor) -> Callable[[], Tensor]:
    """Return a forward pass without gradients."""

    def run() -> Tensor:
        with torch.no_grad(), autocast(torch.get_default_device().type, precision):
            return network(*inputs)

    return run


# ---------------------------------------------------------------- networks


def bridge_spec(size: int, puzzle: Triple = HALF, recompute: str = "none", mix: str = "none") -> UNetSpec:
    """Return the network of the bridge as planned for a volume of this size, with one source and one target."""
    rung = Rung(puzzle, (size,) * 3, SPACING, batch_size=1, width=WIDTH, recompute=recompute)
    return replace(UNetSpec.on(rung, Channels(inputs=2, outputs=2, answers=2, errors=1)), mix=mix)


def bridge(size: int, precision: str, puzzle: Triple = HALF, recompute: str = "none", mix: str = "none") -> Ready:
    load = Workload(bridge_spec(size, puzzle, recompute, mix), puzzle, (size,) * 3, 1, precision, "cpu")
    network, objective = build_network(load.network, puzzle), build_objective(BRIDGE.stages[0], formulation_of(BRIDGE))
    weights = [*network.parameters(), *objective.parameters()]
    batch = memory.Batch(volume(size), volume(size))
    recorder = Recorder[None](weights, recording_on(batch.x0.device))
    t, eps = memory.drawn(batch)

    def teach() -> None:  # recorded on a GPU, as training does
        recorder.gradients(
            "step", lambda _: [None], lambda _: memory.teach(network, objective, batch, precision, t, eps)
        )

    run = silent(network, precision, volume(size), torch.rand(1), volume(size))
    return Ready(run, TrainingStep(weights, teach, network), sum(w.numel() for w in weights))


def monai_network(size: int) -> nn.Module:
    """Return MONAI's UNet with the width and the levels of the bridge, at full resolution."""
    return monai_unet([WIDTH * multiplier for multiplier in bridge_spec(size).multipliers])


def monai_unet(channels: Sequence[int], inputs: int = 2, outputs: int = 1) -> nn.Module:
    """Return MONAI's UNet with so many channels at its levels; its inputs are x_t and the source, concatenated.

    Without attention at its levels; the block between encoder and decoder has attention in any case.
    """
    from monai.networks.nets import DiffusionModelUNet

    return DiffusionModelUNet(
        spatial_dims=3,
        in_channels=inputs,
        out_channels=outputs,
        channels=tuple(channels),
        attention_levels=(False,) * len(channels),
        num_res_blocks=2,
    )


def monai(size: int, precision: str) -> Ready:
    """Return the training step of MONAI's tutorials: a mean squared error of the noise, by the DiffusionInferer."""
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import DDPMScheduler

    network, inferer = monai_network(size), DiffusionInferer(DDPMScheduler(num_train_timesteps=DDPM_STEPS))
    images, source = volume(size), volume(size)

    def backward() -> None:
        noise, timesteps = torch.randn_like(images), torch.randint(0, DDPM_STEPS, (1,))
        with autocast(torch.get_default_device().type, precision):
            answer = inferer(images, network, noise, timesteps, condition=source, mode="concat")
        F.mse_loss(answer.float(), noise).backward()

    weights = list(network.parameters())
    run = silent(network, precision, torch.cat([volume(size), source], dim=1), torch.randint(0, DDPM_STEPS, (1,)))
    return Ready(run, TrainingStep(weights, backward, None), sum(w.numel() for w in weights))


def nnunet(size: int, precision: str, name: str) -> Ready:
    """Return a network of nnU-Net as it plans it for a patch of this size, trained as a regression by an L1 loss."""
    network, source, target = nnunet_network(name, (size,) * 3, SPACING), volume(size), volume(size)

    def backward() -> None:
        with autocast(torch.get_default_device().type, precision):
            answer = network(source)
        F.l1_loss(answer.float(), target).backward()

    weights = list(network.parameters())
    run = silent(network, precision, source)
    return Ready(run, TrainingStep(weights, backward, None), sum(w.numel() for w in weights))


def nnunet_network(name: str, patch: Triple, spacing: Sequence[float], inputs: int = 1, outputs: int = 1) -> nn.Module:
    """Return a network of nnU-Net as it plans it for a patch, with its levels, kernels and features."""
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    _, strides, kernels, _, _ = get_pool_and_conv_props(spacing, patch, SMALLEST_MAP, 999999)
    stages = len(strides)
    plain = name == "PlainConvUNet"
    blocks = {"n_conv_per_stage": [PLAIN] * stages} if plain else {"n_blocks_per_stage": ENCODER[:stages]}
    network: nn.Module = get_network_from_plans(
        f"dynamic_network_architectures.architectures.unet.{name}",
        {
            "n_stages": stages,
            "features_per_stage": [min(MOST_FEATURES, WIDTH * 2**i) for i in range(stages)],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": kernels,
            "strides": strides,
            **blocks,
            "n_conv_per_stage_decoder": [PLAIN if plain else DECODER] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        ["conv_op", "norm_op", "dropout_op", "nonlin"],
        input_channels=inputs,
        output_channels=outputs,
        deep_supervision=False,
    )
    return network


# ---------------------------------------------------------------- sampling


def bridge_walk(size: int, precision: str, steps: int) -> Ready:
    """Return the first step of the planned walk: second order, dense in log(sigma/a)."""
    network, formulation = build_network(bridge_spec(size), HALF).eval(), formulation_of(BRIDGE)
    y, ask, rule = volume(size), asked(network, "cpu", precision), Second()
    times = Ratio(STEPS, steps, high=HIGHEST * OPEN_PART, low=LOWEST * OPEN_PART)(formulation.process, rule)

    def denoise(x_t: Tensor, t: float) -> Any:
        moment = torch.full((1,), t, dtype=torch.float64)
        shown, told = formulation.view(x_t, y, moment)
        return formulation.estimate(ask(shown, told.float(), y), x_t, y, moment)

    @torch.no_grad()
    def run() -> object:
        return list(islice(walk(y, times, denoise, rule, Course(formulation.process, y)), 1))

    return Ready(run, weights=sum(w.numel() for w in network.parameters()), evaluations=len(times) - 1)


def monai_walk(size: int, precision: str, scheduler_name: str, steps: int) -> Ready:
    """Return the first step of the DiffusionInferer's loop."""
    from monai.inferers import DiffusionInferer
    from monai.networks import schedulers

    network = monai_network(size).eval()
    scheduler = getattr(schedulers, scheduler_name)(num_train_timesteps=DDPM_STEPS)
    scheduler.set_timesteps(steps)
    evaluations, scheduler.timesteps = len(scheduler.timesteps), scheduler.timesteps[:1]
    noise, source = volume(size), volume(size)

    def run() -> object:
        with autocast(torch.get_default_device().type, precision):
            return DiffusionInferer(scheduler).sample(
                noise, network, scheduler, conditioning=source, mode="concat", verbose=False
            )

    return Ready(run, weights=sum(w.numel() for w in network.parameters()), evaluations=evaluations)


# ---------------------------------------------------------------- tiles


class Counted(nn.Module):
    """In place of a network: a copy of the tile. The merged volume must therefore be the volume itself."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor, *rest: object) -> Tensor:
        self.calls += 1
        return x.clone()


def tiling(size: int, precision: str, merged: Callable[[Counted, Tensor, int], Tensor]) -> Ready:
    """Return the tiling of a volume; its error is the largest difference from the volume."""
    network, whole = Counted(), volume(int(TILES * size))
    ready = Ready(lambda: None)

    def run() -> None:
        network.calls = 0
        with torch.no_grad():
            result = merged(network, whole, size)
        ready.evaluations = network.calls
        ready.error = lambda: float((result.reshape(whole.shape) - whole).abs().max())

    ready.run = run
    return ready


def ours_merged(network: Counted, whole: Tensor, size: int) -> Tensor:
    z, y, x = whole.shape[2:]
    return tiled(network, Tiling((z, y, x), (size,) * 3, OVERLAP), whole.device)(whole, torch.ones(1), None)


def monai_merged(network: Counted, whole: Tensor, size: int) -> Tensor:
    from monai.inferers import sliding_window_inference

    return sliding_window_inference(whole, (size,) * 3, 1, network, overlap=OVERLAP, mode="gaussian")


def nnunet_merged(network: Counted, whole: Tensor, size: int) -> Tensor:
    """Return what nnU-Net's predictor merges; it is told the patch and the number of outputs, as from its plans."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(OVERLAP, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=[size] * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=1)
    return predictor.predict_sliding_window_return_logits(whole[0]).float()


def torchio_merged(network: Counted, whole: Tensor, size: int) -> Tensor:
    import torchio

    subject = torchio.Subject(image=torchio.ScalarImage(tensor=whole[0]))
    sampler = torchio.GridSampler(subject, size, int(OVERLAP * size))
    aggregator = torchio.GridAggregator(sampler, overlap_mode="hann")
    for batch in torchio.SubjectsLoader(sampler, batch_size=1):
        aggregator.add_batch(network(batch["image"][torchio.DATA]), batch[torchio.LOCATION])
    return aggregator.get_output_tensor()


# ---------------------------------------------------------------- resampling


def smooth(shape: Sequence[int]) -> np.ndarray:
    """Return a smooth function sampled at the centres of a grid over the unit cube, float32 [Z, Y, X]."""
    axes = [(np.arange(n) + 0.5) / n for n in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return (np.cos(9 * z + 1) * np.cos(14 * y) + np.cos(11 * x + 5 * z)).astype(np.float32)


def resampling(size: int, precision: str, factor: float, resized: Callable[[np.ndarray, Triple], Any]) -> Ready:
    """Return the resampling of a smooth volume; its error is the largest one away from the border."""
    shape = (size, size, size)
    z, y, x = (round(factor * n) for n in shape)
    array, edge = smooth(shape)[None], max(1, size // 8)
    inner, truth = (slice(edge, -edge),) * 3, smooth((z, y, x))
    ready = Ready(lambda: None)

    def run() -> None:
        result = np.asarray(resized(array, (z, y, x)))[0]
        alike = result.shape == truth.shape
        ready.error = lambda: float(np.abs(result[inner] - truth[inner]).max()) if alike else None

    ready.run = run
    return ready


def ours_resized(array: np.ndarray, shape: Triple, antialias: bool = True) -> Any:
    matrix.cache_clear()  # matrices are kept, but the next volume usually has another shape
    return resample(array, shape, antialias=antialias)


def nnunet_resized(array: np.ndarray, shape: Triple) -> Any:
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    spacing = [n / m for n, m in zip(array.shape[1:], shape, strict=True)]
    return resample_data_or_seg_to_shape(array, shape, SPACING, spacing, is_seg=False, order=3, order_z=0)


def torchio_resized(array: np.ndarray, shape: Triple) -> Any:
    import torchio

    spacing = tuple(n / m for n, m in zip(array.shape[1:], shape, strict=True))
    image = torchio.ScalarImage(tensor=torch.from_numpy(array))
    return torchio.Resample(spacing, image_interpolation="bspline")(image).numpy()


# ---------------------------------------------------------------- rows


def resizers(factor: float) -> tuple[Contender, ...]:
    def contender(name: str, resized: Callable[[np.ndarray, Triple], Any], **words: Any) -> Contender:
        return Contender(name, partial(resampling, factor=factor, resized=resized), **words)

    plain = contender("nndiff, no anti-aliasing", partial(ours_resized, antialias=False))
    return (
        contender("nndiff", ours_resized, base=True),
        *([plain] if factor < 1 else []),
        contender("nnU-Net resample_data_or_seg", nnunet_resized, needs="nnunetv2"),
        contender("TorchIO Resample, bspline", torchio_resized, needs="torchio"),
    )


GROUPS: dict[str, tuple[Contender, ...]] = {
    "networks": (
        Contender("nndiff, as planned", bridge, base=True),
        Contender("nndiff, norms twice", partial(bridge, recompute="norms")),
        Contender("nndiff, blocks twice", partial(bridge, recompute="blocks")),
        Contender("nndiff, Haar", partial(bridge, mix="haar")),
        Contender("nndiff, full resolution", partial(bridge, puzzle=FULL)),
        Contender("MONAI DiffusionModelUNet", monai, needs="monai"),
        Contender("nnU-Net PlainConvUNet", partial(nnunet, name="PlainConvUNet"), needs="nnunetv2"),
        Contender("nnU-Net ResEnc UNet", partial(nnunet, name="ResidualEncoderUNet"), needs="nnunetv2"),
        Contender("nndiff, as planned", bridge, "bf16", base=True),
        Contender("nndiff, full resolution", partial(bridge, puzzle=FULL), "bf16"),
        Contender("MONAI DiffusionModelUNet", monai, "bf16", needs="monai"),
    ),
    "sampling": (
        Contender("nndiff, as planned", partial(bridge_walk, steps=1), base=True),
        Contender("nndiff, with texture", partial(bridge_walk, steps=SHOWN_STEPS)),
        Contender(
            "MONAI RFlowScheduler",
            partial(monai_walk, scheduler_name="RFlowScheduler", steps=FLOW_STEPS),
            needs="monai",
        ),
        Contender(
            "MONAI DDIMScheduler",
            partial(monai_walk, scheduler_name="DDIMScheduler", steps=DDIM_STEPS),
            needs="monai",
        ),
        Contender(
            "MONAI DDPMScheduler",
            partial(monai_walk, scheduler_name="DDPMScheduler", steps=DDPM_STEPS),
            needs="monai",
        ),
    ),
    "tiles": (
        Contender("nndiff", partial(tiling, merged=ours_merged), base=True),
        Contender("MONAI sliding_window_inference", partial(tiling, merged=monai_merged), needs="monai"),
        Contender("nnU-Net nnUNetPredictor", partial(tiling, merged=nnunet_merged), needs="nnunetv2"),
        Contender("TorchIO GridAggregator", partial(tiling, merged=torchio_merged), needs="torchio"),
    ),
    "up": resizers(UP),
    "down": resizers(DOWN),
}


def contender_of(group: str, name: str, precision: str) -> Contender:
    return next(row for row in GROUPS[group] if (row.name, row.precision) == (name, precision))
