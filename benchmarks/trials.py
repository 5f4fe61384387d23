"""What benchmarks that train models share: data, variants of a plan, trainings without validation, baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from nndiff.assemble import build_augmentations
from nndiff.checkpoint import Checkpoint, Run, Step
from nndiff.cli import plan_and_preprocess
from nndiff.demo.cases import DATASETS, simulate
from nndiff.families.family import Channels, Rung
from nndiff.families.unet import UNetSpec
from nndiff.imaging import store
from nndiff.methods import METHODS
from nndiff.metrics.pet import best_gaussian
from nndiff.planning import recipe
from nndiff.planning.overrides import cost_of, put_in
from nndiff.plans.plan import Plan, load_plan
from nndiff.sampling.scoring import Figures, bounds_of, compare
from nndiff.training import prior
from nndiff.training.batches import Batch, Batches, loader
from nndiff.training.loop import Trainer, share_of
from nndiff.training.ranks import Ranks
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.files import read_json, write_json
from nndiff.words.volume import FloatArray, Triple

NAME = "bridge"
FACTORS: dict[str, Triple] = {"r1": (1, 1, 1), "r2": (2, 2, 2), "r122": (1, 2, 2), "haar": (2, 2, 2), "r4": (4, 4, 4)}
TRAINING = 16  # simulated bodies
PLAIN = ("input", "best Gaussian")
TIMED, WARMED = 5, 2  # steps per variant that are timed, and steps before them that warm up


@dataclass(frozen=True)
class Data:
    plan: Plan
    prepared: Path
    training: tuple[str, ...]
    held: tuple[str, ...]
    name: str = NAME  # the configuration that is trained

    @property
    def folder(self) -> Path:
        return self.prepared / self.name


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# ---------------------------------------------------------------- data


def simulated(
    folder: Path, held_out: int, doses: Sequence[float], training: int = TRAINING, workers: int | None = None
) -> list[Path]:
    """Return the demo's raw datasets, simulated if need be: low-count PET, and uncorrected low-count PET."""
    found = [folder / "raw" / name for name in DATASETS]
    if all((path / "ceiling.json").exists() for path in found):  # written last
        return found
    return simulate(folder / "raw", training + held_out, 0, doses, 0, workers)


def prepared(
    raw: Path,
    output: Path,
    held_out: int,
    names: Sequence[str] = (NAME,),
    by_hand: Sequence[str] = (),
    workers: int | None = None,
) -> Data:
    """Plan for this machine, preprocess, and return the data; the last cases are held out."""
    plans = output / "preprocessed"
    flags = ["--raw", str(raw.parent), "--preprocessed", str(plans), *(["--set", *by_hand] if by_hand else [])]
    flags += [] if workers is None else ["-np", str(workers)]
    if plan_and_preprocess.main(["-d", raw.name[7:10], "-c", *names, *flags]):
        raise SystemExit(1)
    return found(plans / raw.name, held_out, names[0])


def found(prepared: Path, held_out: int, name: str = NAME) -> Data:
    """Return data that were prepared before."""
    cases = store.cases(prepared / name)
    return Data(load_plan(prepared / "plan.json"), prepared, tuple(cases[:-held_out]), tuple(cases[-held_out:]), name)


# ---------------------------------------------------------------- variants


def varied(plan: Plan, variant: str) -> Plan:
    """Return the plan that FACTOR[+KEY=VALUE…] names: another puzzle on the same patches, and other fields changed."""
    name, *changes = variant.split("+")
    planned = plan.configurations[NAME]
    spec, patch = planned.network, planned.patch_size
    assert isinstance(spec, UNetSpec)
    rung = Rung(FACTORS[name], patch, planned.spacing, planned.batch_size, spec.width, spec.recompute)
    changed = replace(planned, puzzle_factor=rung.puzzle_factor, network=resized(spec, rung))
    mixed = ["network.mix=haar"] if name == "haar" else []
    plan = put_in(replace(plan, configurations={NAME: changed}), NAME, [*mixed, *changes])
    changed = plan.configurations[NAME]
    return replace(plan, configurations={NAME: replace(changed, predicted=cost_of(changed))})


def resized(spec: UNetSpec, rung: Rung) -> UNetSpec:
    """Return a UNet of another size with the same inputs, outputs and starting point of its answer."""
    channels = Channels(spec.in_channels, spec.out_channels, spec.answers, spec.skip, spec.errors, sources=spec.sources)
    return UNetSpec.on(rung, channels)


def in_steps(sampler: SamplerPlan, steps: int) -> SamplerPlan:
    """Return the sampler with the same path walked in another number of steps."""
    return replace(sampler, times=replace(sampler.times, steps=steps))


def step_seconds(runs: Mapping[str, tuple[Data, Plan]], known: Path) -> dict[str, float]:
    """Return the seconds per training step of every variant, measured with the variants taking turns.

    Results are kept in the file `known`: a later run measures new variants only, beside the first.
    """
    seconds: dict[str, float] = read_json(known) if known.exists() else {}
    first = next(iter(runs))
    new = [variant for variant in runs if variant not in seconds]
    if new:
        beside = list(dict.fromkeys([first, *new]))
        parts = [(variant, *stage) for variant in beside for stage in _stages(*runs[variant])]
        walks = [begun(runs[variant][0], plan, TIMED + WARMED, 0)[1] for variant, _, plan in parts]
        times = [[next(walk).seconds for walk in walks] for _ in range(TIMED + WARMED)][WARMED:]
        medians = dict.fromkeys(beside, 0.0)
        for (variant, share, _), column in zip(parts, zip(*times, strict=True), strict=True):
            medians[variant] += share * median(column)
        scale = seconds.get(first, medians[first]) / medians[first]
        seconds |= {variant: round(scale * medians[variant], 4) for variant in new}
        write_json(known, seconds)
    return seconds


def _stages(data: Data, plan: Plan) -> list[tuple[float, Plan]]:
    """Return each stage alone, with its share of the steps."""
    name, planned = data.name, plan.configurations[data.name]
    total = sum(stage.share for stage in planned.stages)
    return [
        (stage.share / total, replace(plan, configurations={name: replace(planned, stages=(stage,))}))
        for stage in planned.stages
    ]


def begun(
    data: Data, plan: Plan, steps: int, seed: int, on: torch.device | None = None, after: Checkpoint | None = None
) -> tuple[Trainer, Iterator[Step]]:
    """Return the trainer of a run of so many steps, with the rates of a plan of that length, and its steps.

    With a checkpoint of such a run, the steps are those after it.
    """
    on = on or device()
    name, planned = data.name, plan.configurations[data.name]
    by_hand = f"configurations.{name}.learning_rate" in plan.overrides
    rate = planned.learning_rate if by_hand else METHODS[name].learning_rate(planned.network, steps).value
    plan = replace(plan, configurations={name: replace(planned, learning_rate=rate)})
    share = share_of(planned, Ranks())
    warmup, half_life = recipe.warmup_steps(steps).value, recipe.ema_half_life(steps).value
    run = Run("0", seed, data.training, (), True, steps, steps, warmup, half_life, share.samples_a_step)
    trainer = Trainer(plan, name, run, on, Ranks())
    if after is None:
        prior.learn(trainer, data.folder)
    else:
        trainer.restore(after)
    return trainer, trainer.steps(loaded(data, plan, trainer.step, steps, seed, on))


def loaded(
    data: Data, plan: Plan, first: int, last: int, seed: int, on: torch.device | None = None
) -> Iterable[list[Batch]]:
    """Return the batches of the steps from `first` up to `last`."""
    planned = plan.configurations[data.name]
    batches = Batches(
        folder=data.folder,
        cases=data.training,
        patch=planned.patch_size,
        share=share_of(planned, Ranks()),
        augmentations=build_augmentations(planned.augmentation),
        seed=seed,
        multiple=planned.network.multiple(planned.puzzle_factor),
        puzzle_factor=planned.puzzle_factor,
    )
    return loader(batches, first, last, 0, pinned=(on or device()).type == "cuda")


# ---------------------------------------------------------------- without a network


def pair(plan: Plan, folder: Path, case: str) -> tuple[FloatArray, FloatArray]:
    """Return anchor and target of a prepared case, [C, Z, Y, X] in network units."""
    arrays = store.open_case(folder, case)
    return np.array(arrays["source"])[list(plan.anchor)], np.array(arrays["target"])


def baseline(plan: Plan, name: str, folder: Path, case: str, kind: str) -> FloatArray:
    """Return the input, or the input under the Gaussian filter with the highest PSNR for this volume."""
    source, target = pair(plan, folder, case)
    if kind == "input":
        return source
    spacing, channels = plan.configurations[name].spacing, zip(source, target, _bounds(plan, target), strict=True)
    return np.stack([best_gaussian(channel, truth, spacing, limits)[0] for channel, truth, limits in channels])


def figures_of(plan: Plan, estimate: FloatArray, target: FloatArray) -> Figures:
    return compare(estimate, target, _bounds(plan, target), None, texture=True)


def _bounds(plan: Plan, target: FloatArray) -> list[tuple[float, float]]:
    return [bounds_of(channel, t) for channel, t in zip(plan.target_channels, target, strict=True)]
