"""Translation of one prepared volume by a trained model: [C, Z, Y, X] in, [C', Z, Y, X] out, in network units.

    x_t, t = start(y)        x̂0 = denoise(x_t, t)        x_s = rule(x_t, x̂0, t, s)        … until t = 0

The network that `denoise` evaluates is composed for each volume (compose.py), so the sampling loop does not depend on
tiles, folds, shifts or kept features. Noise is drawn once for the whole volume, on the CPU. It therefore depends
neither on the tiles nor on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import Tensor, nn

from nndiff.assemble import Formulation, build_network, formulation_of
from nndiff.diffusion.prediction import Estimate, Fused
from nndiff.diffusion.walk import Course, noise_like, walk
from nndiff.families.family import padded
from nndiff.imaging.tiles import Tiling, snug
from nndiff.networks.lean import channels
from nndiff.plans.plan import Configuration, Plan
from nndiff.resources.memory import feature_bytes, volume_bytes
from nndiff.resources.recording import recording_on
from nndiff.sampling.compose import OnTile, averaged, layered, tiled
from nndiff.sampling.replays import Replayed, replay_bytes
from nndiff.walk.caches import Deep, Keeping, Kept
from nndiff.walk.layers import Tiles, ordered
from nndiff.walk.part import Setting
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Triple

PROPORTION_SLACK = 1.1  # memory is only nearly proportional to the number of voxels; a test checks this factor
ALIKE = 5.0  # volumes with so many times the voxels of the patch still have its norms: 4 times did, 7 and 72 did not
SMALLEST_TILE = 16  # voxels per axis; smaller tiles consist almost only of border


@dataclass(frozen=True)
class Model:
    """The networks of one configuration, one per fold, with the formulation that interprets their outputs."""

    configuration: Configuration
    anchor: tuple[int, ...]
    bounds: tuple[tuple[float, float], ...]  # per target channel, the range to which x̂0 is clamped
    networks: tuple[nn.Module, ...]
    formulation: Formulation
    device: torch.device

    @property
    def channels(self) -> int:
        return len(self.bounds)

    @property
    def setting(self) -> Setting:
        """Return the properties of the model that the parts of a sampler may use."""
        return Setting(self.formulation.process, self.configuration.network, self.configuration.puzzle_factor)


def build_model(plan: Plan, name: str, weights: Sequence[Mapping[str, Tensor]], device: torch.device) -> Model:
    """Return the model of the configuration `name` on the device; `weights` holds those of each fold."""
    configuration = plan.configurations[name]
    networks = []
    for values in weights:
        network = build_network(configuration.network, configuration.puzzle_factor, unset=True)
        network.load_state_dict(values)
        networks.append(network.to(device).eval())
    return Model(
        configuration=configuration,
        anchor=plan.anchor,
        bounds=plan.target_range,
        networks=tuple(networks),
        formulation=formulation_of(configuration),
        device=device,
    )


# ---------------------------------------------------------------- how a volume is laid out


@dataclass(frozen=True)
class Arrangement:
    """The tiles, and the device on which the arrays of the whole volume are stored during sampling."""

    tiling: Tiling
    store: torch.device
    bytes: int  # predicted memory on the device of the network


def arrangements(model: Model, shape: Triple, usable: int, sampler: SamplerPlan | None = None) -> list[Arrangement]:
    """Return all arrangements that are predicted to fit, best first.

    A volume of at most ALIKE times the voxels of the plan's patch is one tile; if that does not fit, two along the
    longest side, and so on. A larger one has tiles of the patch, and smaller ones if these do not fit: the norms of a
    network average over what it sees, so it must see as much as in training. The features that the sampler keeps per
    tile are stored with the volume. If nothing is predicted to fit, the smallest arrangement is returned alone, so that
    it is tried rather than refused.
    """
    configuration, device, cpu = model.configuration, model.device, torch.device("cpu")
    planned = configuration.sampler.part(Tiles).overlap
    overlap = planned if sampler is None else sampler.part(Tiles).overlap
    whole_only = not planned and not model.anchor  # generated volumes are never tiled
    multiple = configuration.network.multiple(configuration.puzzle_factor)
    patch = configuration.patch_size
    alike = math.prod(shape) <= ALIKE * math.prod(patch) and not configuration.network.keeps_patch
    parts = _divided(shape, overlap, multiple) if alike else _smaller(patch, shape)
    options = []
    for size in [shape] if whole_only else parts:
        tiling = Tiling(shape, size, overlap)
        tile, volume = _tile_bytes(model, tiling.size), volume_bytes(configuration.network, shape)
        if sampler is not None:
            tile += sum(layer.bytes(configuration.network, tiling.size) for layer in sampler.layers)
            kept = _kept_bytes(model, sampler, tiling.size)
            tile, volume = tile + kept, volume + kept * len(tiling)
        if recording_on(device) is not None:
            tile += len(model.networks) * replay_bytes(configuration.network, tiling.size)
        options.append(Arrangement(tiling, device, tile + volume))
        if device != cpu and len(tiling) > 1:
            options.append(Arrangement(tiling, cpu, tile))
    fitting = [option for option in options if option.bytes <= usable]
    return fitting or [min(options, key=lambda option: option.bytes)]


def _divided(shape: Triple, overlap: float, multiple: Triple) -> Iterator[Triple]:
    """Yield the whole volume, then the smallest tiles that cover it with twice as many along the longest side.

    They are as small as their number allows, so little is computed twice: with a quarter of overlap, 1.5 times the
    volume for 2 x 2 x 2 tiles.
    """
    counts = [1, 1, 1]
    while True:
        sides = (snug(n, count, overlap, m) for n, count, m in zip(shape, counts, multiple, strict=True))
        z, y, x = (min(n, max(SMALLEST_TILE, side)) for n, side in zip(shape, sides, strict=True))
        yield z, y, x
        longest = max(range(3), key=lambda axis: (z, y, x)[axis])
        if (z, y, x)[longest] <= SMALLEST_TILE:
            return
        counts[longest] *= 2


def _smaller(patch: Triple, shape: Triple) -> Iterator[Triple]:
    """Yield the patch, then smaller tiles, each with the longest side halved."""
    size = [min(p, n) for p, n in zip(patch, shape, strict=True)]
    while True:
        yield size[0], size[1], size[2]
        longest = max(range(3), key=lambda axis: size[axis])
        if size[longest] <= SMALLEST_TILE:
            return
        size[longest] = max(SMALLEST_TILE, size[longest] // 2)


def _tile_bytes(model: Model, tile: Triple) -> int:
    """Return the bytes of one evaluation of a tile.

    They are the plan's prediction for its patch, scaled to the voxels of the tile, and the weights of all folds.
    """
    configuration = model.configuration
    steps = configuration.network.multiple(configuration.puzzle_factor)
    voxels, of_patch = (math.prod(padded(size, steps)) for size in (tile, configuration.patch_size))
    weights = sum(weight.numel() * weight.element_size() for weight in model.networks[0].parameters())
    activations = max(0, configuration.predicted.prediction_bytes - weights)
    return int(PROPORTION_SLACK * activations * voxels / of_patch) + len(model.networks) * weights


def kept_bytes(configuration: Configuration, tile: Triple, depth: int) -> int:
    """Return the bytes of the feature that one network keeps for one tile and one shift."""
    return feature_bytes(replace(configuration.workload("cuda"), patch_size=tile), depth)


def _kept_bytes(model: Model, sampler: SamplerPlan, tile: Triple) -> int:
    """Return the bytes of all features that a walk keeps for one tile from step to step."""

    def feature(depth: int) -> int:
        return kept_bytes(model.configuration, tile, depth)

    network = model.configuration.network
    kept = sum(cache.bytes(network, tile, feature) for cache in sampler.caches)
    return len(model.networks) * sampler.passes * kept


# ---------------------------------------------------------------- one volume


def translate(
    model: Model,
    source: Tensor | None,  # [C, Z, Y, X], or None in generation
    shape: Triple,
    sampler: SamplerPlan,
    generator: torch.Generator,  # on the CPU
    options: Sequence[Arrangement],
    on_progress: Callable[[float], object] = lambda _: None,  # called with the share of a step that has been walked
    on_retreat: Callable[[Arrangement], None] = lambda _: None,
    on_kept: Callable[[Kept], None] | None = None,  # called after the walk; if given, changes of features are measured
) -> Tensor:
    """Return one draw [C', Z, Y, X], float32 on the CPU.

    If the device runs out of memory, the next arrangement in `options` is used, with the same noise.
    """
    state = generator.get_state()
    for arrangement, smaller in zip(options, [*options[1:], None], strict=True):
        try:
            return _draw(model, source, shape, sampler, generator, arrangement, on_progress, on_kept)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if smaller is None:
                raise NndiffError(
                    "The device ran out of memory on the smallest tiles.",
                    found=f"tiles of {arrangement.tiling.size}",
                    remedy="stop other programs on the device, or predict with -device cpu",
                ) from error
            on_retreat(smaller)
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        generator.set_state(state)
    raise AssertionError("there is always an arrangement")


def out_of_memory(error: Exception) -> bool:
    """Return whether the error means that memory ran out: CUDA raises its own class, the CPU a certain message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@dataclass
class Pace:
    """Tells how much of a walk's step is done: tile by tile, and at its end what is left of it."""

    tell: Callable[[float], object]
    tiles: int
    told: float = 0.0  # of the step

    def tile(self) -> None:
        self._tell(min(1 / self.tiles, 1 - self.told))  # a layer may ask for all tiles again

    def step(self) -> None:
        self._tell(1 - self.told)
        self.told = 0.0

    def _tell(self, share: float) -> None:
        self.told += share
        self.tell(share)


@torch.no_grad()
def _draw(
    model: Model,
    source: Tensor | None,
    shape: Triple,
    sampler: SamplerPlan,
    generator: torch.Generator,
    arrangement: Arrangement,
    on_progress: Callable[[float], object],
    on_kept: Callable[[Kept], None] | None,
) -> Tensor:
    store, process = arrangement.store, model.formulation.process
    condition = None if source is None else source[None].to(store, torch.float32)  # [1, C, Z, Y, X]
    y = None if condition is None else channels(condition, model.anchor)
    sampler.start.demand_source(y)
    like = torch.zeros(1, model.channels, *shape, device=store) if y is None else y
    measured = [Kept(sampler.part(Deep), store, measures=True)] if on_kept is not None else []
    keeping: list[Keeping] = [*measured] or [c.begin(store) for c in sampler.caches if not c.is_identity]

    pace = Pace(on_progress, len(arrangement.tiling))

    def estimated(keeping: Sequence[Keeping], on_tile: OnTile = lambda: None) -> Callable[[Tensor, float], Estimate]:
        network = composed(model, sampler, arrangement.tiling, keeping, on_tile)

        def estimate(x_t: Tensor, t: float) -> Estimate:
            times = torch.full((1,), t, dtype=torch.float64)
            shown, told = model.formulation.view(x_t, y, times)
            return model.formulation.estimate(network(shown, told, condition), x_t, y, times)

        return estimate

    ask = estimated(keeping, pace.tile)

    def denoise(x_t: Tensor, t: float) -> Estimate:
        for kept in keeping:
            kept.begin(x_t)
        estimate = ask(x_t, t)
        for kept in keeping:
            kept.end(x_t)
        return estimate

    low, high = (
        torch.tensor(limits, device=store).reshape(1, -1, 1, 1, 1) for limits in zip(*model.bounds, strict=True)
    )
    times = sampler.walking_times(model.setting)
    reached = sampler.start(process, like, y, times[0], estimated(()), noise_like(like, generator))
    course = Course(process, y, generator)
    guides = [guide for guide in sampler.guides if not guide.is_identity]
    for x_s, _, _ in walk(reached, times, denoise, sampler.rule, course, (low, high), guides):
        reached = x_s
        pace.step()
    for each in measured:
        if on_kept is not None:
            on_kept(each)
    return reached[0].float().cpu()


@torch.no_grad()
def expected_error(
    model: Model, source: Tensor, shape: Triple, sampler: SamplerPlan, arrangement: Arrangement
) -> Tensor:
    """Return the error that the network expects of its answer at t = 1, per voxel: [C', Z, Y, X], on the CPU."""
    prediction, process = model.formulation.prediction, model.formulation.process
    assert isinstance(prediction, Fused)
    condition = source[None].to(arrangement.store, torch.float32)
    y, t = channels(condition, model.anchor), torch.ones(1, dtype=torch.float64)
    x_t = process.sample(y, y, t, torch.zeros_like(y))
    shown, told = model.formulation.view(x_t, y, t)
    output = composed(model, sampler, arrangement.tiling, ())(shown, told, condition)
    return prediction.variance(process, output, x_t, y, t).sqrt_()[0].float().cpu()


def composed(
    model: Model, sampler: SamplerPlan, tiling: Tiling, keeping: Sequence[Keeping], on_tile: OnTile = lambda: None
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Return the model's networks with all layers of the sampler: (x_t, t, condition) → output, of a whole volume."""
    configuration = model.configuration
    recording = recording_on(model.device)
    shared = None if recording is None else cache(recording)  # by all folds, so that memory does not grow with them
    networks = [Replayed(network, shared) for network in model.networks]
    folds = [layered(network, sampler.layers, keeping, configuration.puzzle_factor) for network in networks]
    network = tiled(averaged(folds, configuration.precision), tiling, model.device, on_tile)
    outside = [layer for layer in sampler.layers if layer.sees_volume and not isinstance(layer, Tiles)]
    for layer in reversed(ordered(outside)):
        network = layer.around(network, configuration.puzzle_factor)
    return partial(network, where=())
