"""A trained network and a prepared source → the prepared target: [C, Z, Y, X] in, [C', Z, Y, X] out, network units.

    x_t, t = start(y)        x̂0 = denoise(x_t, t)        x_s = rule(x_t, x̂0, t, s)        … until t = 0

The network that `denoise` asks is composed afresh for each volume (layers.py), so the sampler never learns of tiles,
folds or shifts, nor of the features that they keep from step to step (reuse.py). Noise is drawn once for the whole
volume, on the CPU: the volume does not depend on how it is cut into tiles, and a seed means one thing on every device.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from nndiff.assemble import Method, build_method, build_network, multiple, padded
from nndiff.diffusion.prediction import Estimate
from nndiff.diffusion.process import Process
from nndiff.diffusion.sampler import First, Hot, Rule, Second, even_times, noise_like, walk
from nndiff.diffusion.start import STARTS, STEPS
from nndiff.imaging.tiles import Tiling
from nndiff.plans.plan import Configuration, NetworkSpec, Plan, SamplerPlan
from nndiff.resources.memory import reuse_cost, volume_bytes
from nndiff.sampling.layers import Averaged, Shifted, Tiled, offsets
from nndiff.sampling.reuse import Kept
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Triple

PROPORTION_SLACK = 1.1  # memory is not quite in proportion to voxels: held to this by a test
SMALLEST_TILE = 16  # voxels an axis: below this a tile is nearly all border


@dataclass(frozen=True)
class Model:
    """Networks of one configuration (a fold each) and what their answers mean."""

    configuration: Configuration
    anchor: tuple[int, ...]
    bounds: tuple[tuple[float, float], ...]  # a target channel each: x̂0 is clamped to them
    networks: tuple[nn.Module, ...]
    method: Method
    device: torch.device

    @property
    def channels(self) -> int:
        return len(self.bounds)


def build_model(plan: Plan, name: str, weights: Sequence[Mapping[str, Tensor]], device: torch.device) -> Model:
    configuration = plan.configurations[name]
    networks = []
    for values in weights:
        network = build_network(configuration.network, configuration.puzzle_factor)
        network.load_state_dict(values)
        networks.append(network.to(device).eval())
    return Model(configuration, plan.anchor, plan.target_range, tuple(networks), build_method(configuration), device)


# ---------------------------------------------------------------- how a volume is laid out


@dataclass(frozen=True)
class Arrangement:
    """The tiles, and where the whole volume's arrays live while the tiles visit the device."""

    tiling: Tiling
    store: torch.device
    bytes: int  # predicted, on the device


def arrangements(
    model: Model, shape: Triple, usable: int, overlap: float | None = None, sampler: SamplerPlan | None = None
) -> list[Arrangement]:
    """Best first: one tile where memory allows, else the plan's patch, then smaller; all that are predicted to fit.

    A transformer keeps to its patch. What the sampler keeps of a tile lives with the volume.
    Where nothing fits, the smallest alone: it is tried rather than refused.
    """
    configuration, device, cpu = model.configuration, model.device, torch.device("cpu")
    overlap = configuration.tile_overlap if overlap is None else overlap
    whole_only = not configuration.tile_overlap and not model.anchor  # generation is made whole
    parts = list(_smaller(configuration.patch_size, shape))
    if configuration.network.name != "prdit":  # whose tokens have the places, and the number, that they were trained at
        parts = list(dict.fromkeys([shape, *parts]))
    sizes = [shape] if whole_only else parts
    options = []
    for size in sizes:
        tiling = Tiling(shape, size, overlap)
        tile, volume = _tile_bytes(model, tiling.size), volume_bytes(configuration.network, shape)
        if sampler is not None and sampler.shifts > 1:
            tile += shifted_bytes(configuration.network, tiling.size)
        if sampler is not None and sampler.reuse.active:
            kept = len(model.networks) * sampler.shifts * kept_bytes(configuration, tiling.size, sampler.reuse.depth)
            kept *= 2 if sampler.reuse.threshold > 0 else 1  # the one before is compared with
            tile, volume = tile + kept, volume + kept * len(tiling)
        options.append(Arrangement(tiling, device, tile + volume))
        if device != cpu and len(tiling) > 1:
            options.append(Arrangement(tiling, cpu, tile))
    fitting = [option for option in options if option.bytes <= usable]
    return fitting or [min(options, key=lambda option: option.bytes)]


def _smaller(patch: Triple, shape: Triple) -> Iterator[Triple]:
    """The patch, then each time the longest side halved."""
    size = [min(p, n) for p, n in zip(patch, shape, strict=True)]
    while True:
        yield size[0], size[1], size[2]
        longest = max(range(3), key=lambda axis: size[axis])
        if size[longest] <= SMALLEST_TILE:
            return
        size[longest] = max(SMALLEST_TILE, size[longest] // 2)


def _tile_bytes(model: Model, tile: Triple) -> int:
    """Of one evaluation: the plan's prediction for its patch, in proportion to the voxels; and all folds' weights."""
    configuration = model.configuration
    steps = multiple(configuration.network, configuration.puzzle_factor)
    voxels, of_patch = (math.prod(padded(size, steps)) for size in (tile, configuration.patch_size))
    weights = sum(weight.numel() * weight.element_size() for weight in model.networks[0].parameters())
    activations = max(0, configuration.predicted.prediction_bytes - weights)
    return int(PROPORTION_SLACK * activations * voxels / of_patch) + len(model.networks) * weights


def shifted_bytes(network: NetworkSpec, tile: Triple) -> int:
    """Of a moved copy of all that a network sees, the sum of the answers so far, and the one to be added."""
    return 4 * math.prod(tile) * (network.in_channels + 2 * network.out_channels)


def kept_bytes(configuration: Configuration, tile: Triple, depth: int) -> int:
    """Of the feature that one network keeps of one tile, at one place of the puzzle's grid."""
    network, precision = configuration.network, configuration.precision
    return reuse_cost(network, configuration.puzzle_factor, tile, precision, depth)[1]


# ---------------------------------------------------------------- one volume


def translate(
    model: Model,
    source: Tensor | None,  # [C, Z, Y, X], or None in generation
    shape: Triple,
    sampler: SamplerPlan,
    generator: torch.Generator,  # on the CPU
    options: Sequence[Arrangement],
    on_step: Callable[[], None] = lambda: None,
    on_retreat: Callable[[Arrangement], None] = lambda _: None,
    on_kept: Callable[[Kept], None] | None = None,  # told after the walk; its features are then measured
) -> Tensor:
    """One draw [C', Z, Y, X], float32 on the CPU; when the device runs out of memory, smaller tiles are used."""
    state = generator.get_state()
    for arrangement, smaller in zip(options, [*options[1:], None], strict=True):
        try:
            return _draw(model, source, shape, sampler, generator, arrangement, on_step, on_kept)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if smaller is None:
                raise NndiffError(
                    "The device ran out of memory on the smallest tiles.",
                    found=f"tiles of {arrangement.tiling.size}",
                    remedy="free the device of other programs, or predict with -device cpu",
                ) from error
            on_retreat(smaller)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        generator.set_state(state)
    raise AssertionError("there is always an arrangement")


def out_of_memory(error: Exception) -> bool:
    """CUDA says so by a class, the CPU's allocator by a sentence; nothing else is taken for it."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@torch.no_grad()
def _draw(
    model: Model,
    source: Tensor | None,
    shape: Triple,
    sampler: SamplerPlan,
    generator: torch.Generator,
    arrangement: Arrangement,
    on_step: Callable[[], None],
    on_kept: Callable[[Kept], None] | None,
) -> Tensor:
    store, process = arrangement.store, model.method.process
    condition = None if source is None else source[None].to(store, torch.float32)  # [1, C, Z, Y, X]
    y = None if condition is None else condition[:, list(model.anchor)]
    if y is None and sampler.start != "noise":
        raise NndiffError(f"Start '{sampler.start}' needs a source.", remedy="--start noise")
    like = torch.zeros(1, model.channels, *shape, device=store) if y is None else y
    moves = offsets(sampler.shifts, model.configuration.puzzle_factor)
    shifted = [Shifted(network, moves) for network in model.networks]
    network = Tiled(Averaged(shifted, model.configuration.precision), arrangement.tiling, model.device)

    kept = None
    if sampler.reuse.active or on_kept is not None:
        passes = len(shifted) * len(moves)
        kept = Kept(sampler.reuse, len(arrangement.tiling), passes, measures=on_kept is not None)

    def estimated(x_t: Tensor, t: float, kept: Kept | None = None) -> Estimate:
        times = torch.full((1,), t, dtype=torch.float64)
        return model.method.estimate(network(x_t, times, condition, kept), x_t, y, times)

    def denoise(x_t: Tensor, t: float) -> Estimate:
        if kept is None:
            return estimated(x_t, t)
        kept.begin(x_t)
        estimate = estimated(x_t, t, kept)
        kept.end(x_t)
        return estimate

    low, high = (
        torch.tensor(limits, device=store).reshape(1, -1, 1, 1, 1) for limits in zip(*model.bounds, strict=True)
    )
    times = walking_times(process, sampler)
    reached = STARTS[sampler.start](process, like, y, times[0], estimated, noise_like(like, generator))
    rule = _rule(process, sampler, generator)
    for x_s, _, _ in walk(reached, times, denoise, rule, y, (low, high)):
        reached = x_s
        on_step()
    if kept is not None and on_kept is not None:
        on_kept(kept)
    return reached[0].float().cpu()


def _rule(process: Process, sampler: SamplerPlan, generator: torch.Generator) -> Rule:
    if sampler.hot:
        return Hot(process, sampler.hot, generator)
    return Second(process, generator) if sampler.order == 2 else First(process, sampler.eta, generator)


def draw_seed(seed: int, name: str, draw: int) -> int:
    """Of one draw of one case: neighbours in the folder change nothing."""
    words = [seed, zlib.crc32(name.encode()), draw]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def walking_times(process: Process, sampler: SamplerPlan) -> list[float]:
    """Even steps down; a bridge walked at second order takes t = sin²(πu/2), on which that order holds."""
    start = sampler.start_step / STEPS
    if sampler.order == 2 and process.at(1.0)[1]:
        return [start * math.sin(math.pi / 2 * u) ** 2 for u in even_times(1.0, sampler.steps)]
    return even_times(start, sampler.steps)


def is_random(process: Process, sampler: SamplerPlan) -> bool:
    """Whether two draws differ: noise at the start, or in some step on the way."""
    times = walking_times(process, sampler)
    updates = [process.update(t, s, sampler.eta) for t, s in pairwise(times)]
    hot = sampler.hot > 1 and sampler.steps > 2
    return hot or process.at(times[0])[2] > 0 or any(update.noise > 0 for update in updates)
