"""Ablations of PRDiT: its local denoiser, its transformer, both; hot and cold walks; beside UNets of equal size.

    python -m benchmarks.prdit [-o FOLDER] [--minutes 6] [--generated 64] [--steps 100] [--quick]
    python -m benchmarks.prdit --crops SCAN.nii.gz …           # parts of real scans; held-out parts are of other scans
    python -m benchmarks.prdit --raw RAW/DATASET --planned --minutes 20000 --generated 1000 --steps 1000 \\
        --features medicalnet --weights resnet_50.pth          # a whole dataset, the planned size: days on a GPU

Without --raw or --crops the data are simulated bodies as CT. Every variant trains equally long: as many steps as fit,
by step times that are measured with the variants taking turns, each stage by its share. There is no validation in
between. The width of a UNet is chosen so that it has about as many weights as the transformer. Every model makes N
volumes from the same noises, which are compared with N held-out scans; intervals are 95 %, by bootstrap over both sets.
Two models are said to differ where the interval of their difference, computed against the same resampled scans,
excludes 0. Each model is trained once; the variation between trainings is not included in the intervals. Finished
trainings and sets are not repeated: run the same command to continue.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.memory import training_peak
from benchmarks.trials import FACTORS, Data, begun, device, in_steps, prepared, resized, step_seconds
from nndiff.assemble import build_network
from nndiff.demo.bodies import SOFT, random_body
from nndiff.evaluation.generation import features_of
from nndiff.families import NetworkSpec
from nndiff.families.family import Rung
from nndiff.families.prdit import PRDiTSpec
from nndiff.families.unet import UNetSpec
from nndiff.imaging import io, store
from nndiff.metrics.distribution import bootstrap, frechet, mmd, nearest, sliced_wasserstein
from nndiff.metrics.features import EXTRACTORS
from nndiff.planning.overrides import cost_of
from nndiff.plans.plan import Configuration, Plan
from nndiff.resources.machine import free_memory
from nndiff.resources.memory import usable_now
from nndiff.sampling.translate import arrangements, build_model, translate
from nndiff.walk.rules import First, Hot, Rule
from nndiff.words.files import atomic, write_json
from nndiff.words.seeds import draw_seed
from nndiff.words.volume import FloatArray, Floats, Grid, Triple, Volume

PRDIT, DDPM = "prdit", "ddpm"
SMALL = (f"configurations.{PRDIT}.network.width=96", f"configurations.{PRDIT}.network.depth=4")
SHAPE: Triple = (32, 32, 32)
BODY_SPACING, CROP_SPACING = 12.0, 4.0  # mm: a torso, or a part of one, in 32 voxels
NOISE_HU = 15.0
TRIES = 4  # parts of a scan, of which the one with the most body is taken
TRAINING = 96
DRAWS = 500  # of the bootstrap
SHOWN = 8  # volumes of a set in the picture
TRAINING_SCANS = "training scans"

MODELS = ("both", "local", "global", "no overlap", "unet", "haar unet")
WALKS: dict[str, Rule] = {  # of "both"; the other transformers take the first, a UNet its planned rule
    "hot 2": Hot(2),
    "hot 1": Hot(1),
    "hot 3": Hot(3),
    "ddim": First(0.0),
}
CLAIMS = (  # which is better according to the paper, and which is worse
    (("both", "hot 2"), ("global", "hot 2")),
    (("both", "hot 2"), ("local", "hot 2")),
    (("both", "hot 2"), ("no overlap", "hot 2")),
    (("both", "hot 2"), ("both", "hot 1")),
    (("both", "hot 2"), ("both", "hot 3")),
    (("both", "hot 2"), ("both", "ddim")),
    (("both", "hot 2"), ("unet", "its own")),
    (("both", "hot 2"), ("haar unet", "its own")),
)
HEADS = (  # columns of the CSV
    "model",
    "walk",
    "weights",
    "steps",
    "s a step",
    "training MB",
    "s a volume",
    "FID",
    "FID 95 %",
    "MMD",
    "MMD 95 %",
)
HEADS += ("SW", "SW 95 %", "to training")

Measure = Callable[[Floats, Floats], float]
MEASURES: dict[str, Measure] = {
    "FID": frechet,
    "MMD": lambda real, made: mmd(real, made).biased_root,
    "SW": sliced_wasserstein,
}


@dataclass(frozen=True)
class Trained:
    plan: Plan
    data: Data
    weights: Mapping[str, torch.Tensor]
    steps: int
    step_seconds: float
    megabytes: float
    size: int  # numbers


@dataclass(frozen=True)
class Set:
    """The features of the volumes that one model makes by one walk."""

    model: str
    walk: str
    features: Floats
    seconds: float  # per volume
    trained: Trained | None = None  # None for the rows that need no model


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("prdit"), metavar="FOLDER")
    parser.add_argument(
        "--raw", type=Path, metavar="RAW/DATASET", help="a dataset without sources, instead of simulated bodies"
    )
    parser.add_argument(
        "--crops", type=Path, nargs="+", metavar="FILE", help="parts cut from these scans, instead of simulated bodies"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--minutes", type=float, default=6.0, help="length of each training (6)")
    parser.add_argument(
        "--generated", type=int, default=64, metavar="N", help="volumes per set, and held-out scans (64)"
    )
    parser.add_argument("--steps", type=int, default=100, help="sampling steps (100)")
    parser.add_argument("--features", default="random", metavar="NAME")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of MedicalNet")
    parser.add_argument("--planned", action="store_true", help="the planned transformer instead of a small one")
    parser.add_argument("--quick", action="store_true", help="half a minute per training, 8 volumes, 20 steps")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.minutes, arguments.generated, arguments.steps = 0.5, 8, 20
    n, output = arguments.generated, arguments.output
    raw = arguments.raw or _made(output, n, arguments.crops)
    by_hand = () if arguments.planned else SMALL
    data = prepared(raw, output, n, (PRDIT, DDPM), by_hand)
    extractor = EXTRACTORS.make(arguments.features, {"weights": arguments.weights} if arguments.weights else {})
    runs = {model: _varied(data, model) for model in arguments.models}
    seconds = step_seconds(runs, output / f"{raw.name}.json")
    limits = data.plan.target_range[0]
    held, training = _targets(data, data.held), _targets(data, data.training)

    def read(volumes: Sequence[FloatArray]) -> Floats:
        return features_of(volumes, limits, extractor)

    real, seen = read(held), read(training)
    mean = np.repeat(read([np.mean(training, axis=0)]), n, axis=0)
    sets = [Set(TRAINING_SCANS, "", seen[:n], 0.0), Set("mean volume", "", mean, 0.0)]
    rows = [_cells(found, real, seen) for found in sets]
    pictures = {"held-out scans": held[:SHOWN]}
    for model, (own, plan) in runs.items():
        steps = int(60 * arguments.minutes / seconds[model])
        trained = _trained(own, plan, steps, seconds[model], output / "runs" / f"{raw.name}_{_file(model)}_{steps}.pt")
        for walk in _walks(model):
            found, shown = _set(model, walk, trained, n, arguments.steps, read, extractor.name, output / "runs")
            pictures[f"{model}, {walk}"] = shown
            sets.append(found)
            rows.append(_cells(found, real, seen))
            print(_line(rows[-1]), flush=True)
    print(f"\n{raw.name}: {n} volumes per set, {arguments.steps} steps, features {extractor.name}\n")
    heads = [name.replace("s a ", "s per ") for name in HEADS]
    print("\n".join([_line(heads), "|" + "---|" * len(heads), *map(_line, rows)]))
    with atomic(output / f"{raw.name}.csv") as part, open(part, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([HEADS, *rows])
    _orders(sets, real)
    _picture(pictures, limits, output / f"{raw.name}.png")
    return 0


def _walks(model: str) -> list[str]:
    return list(WALKS) if model == "both" else ["its own" if model.endswith("unet") else "hot 2"]


def _file(model: str) -> str:
    return model.replace(" ", "_")


# ---------------------------------------------------------------- data


def _made(output: Path, held_out: int, scans: Sequence[Path] | None) -> Path:
    """Write a raw dataset without sources and return its folder; its last `held_out` cases are of other bodies."""
    raw = output / "raw" / ("Dataset903_Crops" if scans else "Dataset902_Bodies")
    if (raw / "dataset.json").exists():  # written last
        return raw
    (raw / "targetsTr").mkdir(parents=True, exist_ok=True)
    volumes = _crops(scans, held_out) if scans else [_body(i) for i in range(TRAINING + held_out)]
    for i, volume in enumerate(volumes):
        io.write(volume, raw / "targetsTr" / f"volume{i:04d}_0000.nii.gz")
    words = {"target_names": {"0": "CT"}, "channel_names": {}, "task": "generation", "file_ending": ".nii.gz"}
    write_json(raw / "dataset.json", words)
    return raw


def _body(number: int) -> Volume:
    generator = np.random.default_rng([5, number])
    body = random_body(generator, SHAPE, (BODY_SPACING,) * 3)
    hu = (body.attenuation / SOFT - 1) * 1000 + generator.normal(0, NOISE_HU, SHAPE)
    return Volume(hu[None].astype(np.float32), body.grid)


def _crops(scans: Sequence[Path], held_out: int) -> list[Volume]:
    """Return parts cut at random where there is a body; a quarter of the scans serve the held-out cases only."""
    every = [_coarse(path) for path in sorted(scans)]
    coarse = [scan for scan in every if all(n >= s for n, s in zip(scan.shape, SHAPE, strict=True))]
    print(f"{len(coarse)} of {len(every)} scans are large enough at {CROP_SPACING:g} mm")
    if len(coarse) < 4:
        raise SystemExit("--crops needs at least four scans that are large enough: a quarter of them is held out")
    first_held = len(coarse) - max(1, len(coarse) // 4)
    generator = np.random.default_rng(0)
    volumes = []
    for i in range(TRAINING + held_out):
        some = coarse[:first_held] if i < TRAINING else coarse[first_held:]
        whole = some[i % len(some)]
        part = max((_part(whole, generator) for _ in range(TRIES)), key=lambda part: float((part > -500).mean()))
        volumes.append(Volume(part[None].copy(), Grid(SHAPE, (CROP_SPACING,) * 3, (0.0, 0.0, 0.0))))
    return volumes


def _part(whole: FloatArray, generator: np.random.Generator) -> FloatArray:
    corner = [generator.integers(0, n - s + 1) for n, s in zip(whole.shape, SHAPE, strict=True)]
    return whole[tuple(slice(c, c + s) for c, s in zip(corner, SHAPE, strict=True))]


def _coarse(path: Path) -> FloatArray:
    """Return the scan at 4 mm, [Z, Y, X], by the mean over whole voxels."""
    volume = io.read([path])
    factors = [max(1, round(CROP_SPACING / s)) for s in volume.grid.spacing]
    array = volume.array[0]
    for axis, factor in enumerate(factors):
        n = array.shape[axis] // factor
        array = np.take(array, range(n * factor), axis).reshape(
            *array.shape[:axis], n, factor, *array.shape[axis + 1 :]
        )
        array = array.mean(axis + 1)
    return array


def _targets(data: Data, cases: Sequence[str]) -> list[FloatArray]:
    return [np.array(store.open_case(data.folder, case)["target"][0]) for case in cases]


# ---------------------------------------------------------------- models


def _varied(data: Data, model: str) -> tuple[Data, Plan]:
    name = DDPM if model.endswith("unet") else PRDIT
    planned, transformer = data.plan.configurations[name], data.plan.configurations[PRDIT].network
    assert isinstance(transformer, PRDiTSpec)
    if model == "local":
        local = (replace(planned.stages[0], share=1.0),)
        planned = replace(planned, network=replace(transformer, depth=0), stages=local)
    elif model == "global":  # the local part stays untrained: it answers zero
        planned = replace(planned, stages=(replace(planned.stages[1], share=1.0),))
    elif model == "no overlap":
        planned = replace(planned, network=replace(transformer, token=transformer.block))
    elif name == DDPM:
        factor = FACTORS["haar" if model == "haar unet" else "r1"]
        as_large = _numbers(transformer, (1, 1, 1))
        network = min(
            (_unet(planned, factor, width) for width in range(4, 512, 4)),
            key=lambda network: abs(_numbers(network, factor) - as_large),
        )
        planned = replace(planned, puzzle_factor=factor, network=network)
    planned = replace(planned, predicted=cost_of(planned))
    own = replace(data, name=name)
    return own, replace(data.plan, configurations={name: planned})


def _unet(planned: Configuration, factor: Triple, width: int) -> UNetSpec:
    spec = planned.network
    assert isinstance(spec, UNetSpec)
    sized = resized(spec, Rung(factor, planned.patch_size, planned.spacing, 1, width, spec.recompute))
    return replace(sized, mix="haar" if max(factor) > 1 else "none")


def _numbers(spec: NetworkSpec, factor: Triple) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_network(spec, factor).parameters())


def _trained(data: Data, plan: Plan, steps: int, seconds: float, path: Path) -> Trained:
    planned = plan.configurations[data.name]
    if path.exists():
        kept = torch.load(path, weights_only=True)
    else:
        clock = time.perf_counter()
        trainer, walk = begun(data, plan, steps, 0)
        losses = [step.loss for step in walk]
        last = float(np.mean(losses[-20:]))
        print(f"{path.stem}: {time.perf_counter() - clock:.0f} s, loss {losses[0]:.3f} → {last:.4f}", file=sys.stderr)
        kept = {"weights": trainer.ema.values, "megabytes": training_peak(planned, device().type) / 1e6}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as part:
            torch.save(kept, part)
    size = _numbers(planned.network, planned.puzzle_factor)
    return Trained(plan, data, kept["weights"], steps, seconds, kept["megabytes"], size)


# ---------------------------------------------------------------- sets


def _set(
    model: str,
    walk: str,
    trained: Trained,
    n: int,
    steps: int,
    read: Callable[[Sequence[FloatArray]], Floats],
    features: str,
    folder: Path,
) -> tuple[Set, list[FloatArray]]:
    """Return the features of N volumes made by this walk, and the first few volumes."""
    path = folder / f"{trained.plan.dataset}_{_file(model)}_{_file(walk)}_{trained.steps}_{steps}_{n}_{features}.npz"
    if not path.exists():
        built = build_model(trained.plan, trained.data.name, [dict(trained.weights)], device())
        sampler = in_steps(built.configuration.sampler, steps)
        sampler = replace(sampler, rule=WALKS.get(walk, sampler.rule))
        shape = built.configuration.volume_shape
        options = arrangements(built, shape, usable_now(free_memory(device().type), device().type))
        volumes, seconds = [], []
        for i in range(n):
            clock = time.perf_counter()
            generator = torch.Generator().manual_seed(draw_seed(0, f"volume_{i}", 0))
            volumes.append(translate(built, None, shape, sampler, generator, options)[0].numpy())
            seconds.append(time.perf_counter() - clock)
        with atomic(path) as part, open(part, "wb") as stream:
            shown = np.stack(volumes[:SHOWN])
            np.savez(stream, features=read(volumes), seconds=np.median(seconds), shown=shown)
    with np.load(path) as kept:
        return Set(model, walk, kept["features"], float(kept["seconds"]), trained), list(kept["shown"])


# ---------------------------------------------------------------- the tables


def _cells(found: Set, real: Floats, seen: Floats) -> list[str]:
    trained = found.trained
    work = ["", "", "", "", ""]
    if trained is not None:
        work = [f"{trained.size / 1e6:.2f} M", str(trained.steps), f"{trained.step_seconds:.3g}"]
        work += [f"{trained.megabytes:.0f}", f"{found.seconds:.3g}"]
    figures = []
    for measure in MEASURES.values():
        low, high = bootstrap(measure, real, found.features, DRAWS)
        figures += [f"{measure(real, found.features):.3g}", f"{low:.3g} to {high:.3g}"]
    repeats = nearest(real if found.model == TRAINING_SCANS else found.features, seen).ratio
    return [found.model, found.walk, *work, *figures, f"{repeats:.2f}"]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _orders(sets: Sequence[Set], real: Floats) -> None:
    """Print for each of the paper's claims, by each measure, whether it holds here, is reversed, or cannot be told."""
    features = {(found.model, found.walk): found.features for found in sets}
    print(
        "\n| better in the paper | worse in the paper | "
        + " | ".join(MEASURES)
        + " |\n|"
        + "---|" * (2 + len(MEASURES))
    )
    for better, worse in CLAIMS:
        if better not in features or worse not in features:
            continue
        cells = []
        for measure in MEASURES.values():
            low, high = _difference(measure, real, features[better], features[worse])
            verdict = "holds" if high < 0 else "reversed" if low > 0 else "not distinguishable"
            cells.append(f"{verdict} ({low:+.3g} to {high:+.3g})")
        print(_line([", ".join(better), ", ".join(worse), *cells]))


def _difference(measure: Measure, real: Floats, first: Floats, second: Floats) -> tuple[float, float]:
    """Return the interval of the first set's measure minus the second's: same noises, same resampled scans."""
    generator, n = np.random.default_rng(0), len(real)
    values = []
    for _ in range(DRAWS):
        scans, made = (generator.integers(n, size=n) for _ in range(2))
        values.append(measure(real[scans], first[made]) - measure(real[scans], second[made]))
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _picture(rows: Mapping[str, Sequence[FloatArray]], limits: tuple[float, float], path: Path) -> None:
    """Draw the middle coronal slices, one row per set."""
    figure = Figure(figsize=(1.3 * SHOWN + 1.2, 1.4 * len(rows)), layout="constrained", dpi=100)
    grid = figure.subplots(len(rows), SHOWN)
    for axes, (name, volumes) in zip(grid, rows.items(), strict=True):
        for cell, volume in zip(axes, volumes, strict=False):
            cell.imshow(volume[::-1, volume.shape[1] // 2], cmap="gray", vmin=limits[0], vmax=limits[1])
        for cell in axes:
            cell.set_xticks([])
            cell.set_yticks([])
        axes[0].set_ylabel(name, fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
