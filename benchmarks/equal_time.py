"""Quality of nndiff and of other libraries' networks after training for the same time on the same scans.

    python -m benchmarks.equal_time PREPARED … [--minutes M] [--seeds S …] [--held_out N] [--only ROW …] [-o FILE.csv]
    python -m benchmarks.equal_time --markdown [-o FILE.csv]               print the tables of a file, measure nothing

PREPARED is a dataset that `nndiff_plan_and_preprocess -c bridge` has made. Its last N cases are held out. All rows see
the same patches, augmentations and batches, and train with AdamW, warm-up, a cosine and a moving average of the
weights, as nndiff does. Each has its own network, loss and rate:

    nndiff, nndiff Haar, …   the plan, and variants of it (`benchmarks.trials`)
    Fast-DDPM                ten noise levels in training and in sampling, predicted noise; nndiff's network
    nnU-Net plain, ResEnc    a regression by an L1 loss, as nnU-Net plans the network for these patches
    nnU-Net residual         the plain one with the source added to its output, because instance norms lose intensities
    MONAI, flow              a DiffusionModelUNet of the bridge's widths with an RFlowScheduler, 30 steps

Time is that of the processor, so that other programs do not count; on a GPU it is that of the clock. A rehearsal of a
few steps, which does not count, says how many steps fit. Rows that are in the file already are not trained again.
nndiff predicts as it always does, in one piece or, if a volume is much larger than the patches, in tiles of them. The
other libraries' networks see tiles of the patch that they were trained on, which overlap by a half (nnU-Net's default)
or a quarter (MONAI's), with Gaussian weights; in one piece their norms of single channels make wrong contrasts. They
see and return intensities that were shifted and scaled as their documentation does it: to mean 0 and deviation 1 for
nnU-Net, 0 to the 99.5th percentile onto 0 to 1 for MONAI.

    CRPS       of two draws, without bias; the absolute error where there are no draws
    hot bias   mean of the estimate over that of the truth, in the truth's brightest hundredth
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.contenders import FLOW_STEPS, monai_unet, nnunet_network
from benchmarks.peers import machine, missing
from benchmarks.trials import Data, baseline, begun, device, found, loaded, varied
from nndiff.assemble import autocast
from nndiff.families.family import Channels, Rung, padded
from nndiff.families.unet import UNetSpec
from nndiff.imaging import store
from nndiff.imaging.tiles import Tiling
from nndiff.metrics.ensemble import crps
from nndiff.planning import recipe
from nndiff.plans.plan import Configuration, Plan, Stage
from nndiff.sampling import dial
from nndiff.sampling.scoring import bounds_of, compare
from nndiff.sampling.translate import arrangements, build_model, translate
from nndiff.training.batches import Batch
from nndiff.training.ema import EMA
from nndiff.training.loop import CLIP_NORM, WEIGHT_DECAY, rate_at, weight_of
from nndiff.walk.rules import First
from nndiff.walk.sampler import SamplerPlan
from nndiff.walk.starts import Noise
from nndiff.walk.times import Even
from nndiff.words.scheme import Scheme
from nndiff.words.seeds import draw_seed, seed_of
from nndiff.words.text_table import text_table
from nndiff.words.volume import FloatArray, Triple

RESULTS = Path(__file__).parent / "results" / "equal_time.csv"
WARMED, TIMED, LEAST = 3, 6, 10  # steps of the rehearsal: warm-up, timed; least steps of a training
DRAWS = 2
FLOW_DRAWS = 1  # a draw takes minutes on a CPU
FAST_STEPS = 10  # Jiang et al. 2024
FAST_BETAS = (0.1, 0.85)  # what a hundred steps of the linear schedule add up to, first and last
MEMORY = 8 << 30
FIGURES = ("psnr", "ssim", "mae", "hf", "hf_body", "hf_air", "texture_db", "crps", "hot_bias")
COLUMNS = ("dataset", "row", "seed", "case", "minutes", "steps", "trained_s", "volume_s", *FIGURES)
PLACE = ("cpu", "threads", "torch", "commit")
Cells = dict[str, Any]
Translator = Callable[[FloatArray, int], FloatArray]  # (source [C, Z, Y, X], seed of the draw) → estimate


@dataclass(frozen=True)
class Reading:
    """One way to translate by a trained network; a walk with noise is drawn several times."""

    name: str
    translate: Translator
    draws: int = 1


@dataclass(frozen=True)
class Training:
    """A training of a known length: its steps, and what translates afterwards."""

    walk: Iterator[object]
    readings: Callable[[], list[Reading]]


Begin = Callable[[int], Training]  # the number of steps → the training


@dataclass(frozen=True)
class Row:
    name: str
    begin: Callable[[Data, int, float | None], Begin]  # (data, seed, rate by hand) → …
    needs: str = ""  # the library


def clock() -> float:
    return time.perf_counter() if device().type == "cuda" else time.process_time()


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    start = clock()
    result = action()
    return result, clock() - start


def trained(begin: Begin, seconds: float) -> tuple[list[Reading], int, float]:
    """Train for so many seconds, and return what translates, the number of steps and the seconds that it took."""
    rehearsal, setup = timed(partial(begin, WARMED + TIMED))
    times = [timed(partial(next, rehearsal.walk))[1] for _ in range(WARMED + TIMED)]
    steps = max(LEAST, int((seconds - setup) / median(times[WARMED:])))

    def train() -> Training:
        training = begin(steps)
        for _ in training.walk:
            pass
        return training

    training, took = timed(train)
    return training.readings(), steps, took


# ---------------------------------------------------------------- nndiff


def planned(data: Data, seed: int, rate: float | None, plan: Callable[[Plan], Plan], named: str, draws: bool) -> Begin:
    chosen = plan(data.plan)
    if rate is not None:
        chosen = _changed(chosen, learning_rate=rate)
        chosen = replace(chosen, overrides={**chosen.overrides, f"configurations.{data.name}.learning_rate": rate})

    def begin(steps: int) -> Training:
        trainer, walk = begun(data, chosen, steps, seed)

        def readings() -> list[Reading]:
            model = build_model(chosen, data.name, [trainer.ema.values], device())

            def by(sampler: SamplerPlan, source: FloatArray, draw: int) -> FloatArray:
                shape = source.shape[1:]
                assert len(shape) == 3
                layouts = arrangements(model, shape, MEMORY, sampler)
                noise = torch.Generator().manual_seed(draw)
                return translate(model, torch.from_numpy(source), shape, sampler, noise, layouts).numpy()

            stops = dial.planned(chosen.configurations[data.name])
            if not draws:
                return [Reading(named, partial(by, chosen.configurations[data.name].sampler), DRAWS)]
            return [
                Reading(f"{named}, one step", partial(by, stops[0].sampler)),
                Reading(f"{named}, six steps", partial(by, stops[-1].sampler), DRAWS),
            ]

        return Training(walk, readings)

    return begin


def fast_ddpm(plan: Plan) -> Plan:
    """Return the recipe of Fast-DDPM on the bridge's network: ten levels of noise, and the noise as its output."""
    (planned,) = plan.configurations.values()
    spec = planned.network
    assert isinstance(spec, UNetSpec)
    rung = Rung(
        planned.puzzle_factor, planned.patch_size, planned.spacing, planned.batch_size, spec.width, spec.recompute
    )
    targets = len(plan.target_channels)
    network = UNetSpec.on(rung, Channels(spec.in_channels, targets, targets, sources=spec.sources))
    first, last = FAST_BETAS
    times, sampler = Even(steps=FAST_STEPS), planned.sampler
    return _changed(
        plan,
        process=Scheme("ddpm", {"steps": float(FAST_STEPS), "beta_first": first, "beta_last": last}),
        prediction="eps",
        network=network,
        stages=(Stage("all", Scheme("squared", {}), 1.0, Scheme("denoising", {})),),
        sampler=replace(sampler, start=Noise(), times=times, rule=First(1.0)),
    )


def _changed(plan: Plan, **fields: Any) -> Plan:
    ((name, planned),) = plan.configurations.items()
    return replace(plan, configurations={name: replace(planned, **fields)})


# ---------------------------------------------------------------- other libraries


@dataclass(frozen=True)
class Scale:
    """Intensities as a library's documentation prepares them: (x - offset)/scale."""

    offset: float
    scale: float

    @classmethod
    def standard(cls, values: FloatArray) -> Scale:
        return cls(float(values.mean()), float(values.std()))

    @classmethod
    def percentile(cls, values: FloatArray) -> Scale:
        low, high = float(values.min()), float(np.percentile(values, 99.5))
        return cls(low, high - low)

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.scale

    def back(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


class Peer:
    """A network of another library, its training on nndiff's batches, and whole volumes of any shape."""

    def __init__(
        self, data: Data, network: nn.Module, scales: tuple[Scale, Scale], multiple: Triple, overlap: float, rate: float
    ):
        self.data, self.network, self.overlap, self.rate = data, network.to(device()), overlap, rate
        self.source, self.target = scales
        self.multiple = multiple  # of voxels: the network's strides
        self.precision = self.configuration.precision

    @property
    def configuration(self) -> Configuration:
        return self.data.plan.configurations[self.data.name]

    def ask(self, *inputs: Tensor) -> Tensor:
        with autocast(device().type, self.precision):
            answer: Tensor = self.network(*inputs)
        return answer.float()

    def steps(self, error: Callable[[Tensor, Tensor], Tensor], steps: int, seed: int) -> Iterator[float]:
        """Yield the loss of each step: the mean over the voxels of `error`(source, target), with nndiff's weights."""
        weights = list(self.network.parameters())
        optimizer = torch.optim.AdamW(weights, self.rate, weight_decay=WEIGHT_DECAY, fused=True)
        ema = EMA(self.network, recipe.ema_half_life(steps).value)
        warmup = recipe.warmup_steps(steps).value
        for k, batches in enumerate(loaded(self.data, self.data.plan, 0, steps, seed)):
            optimizer.param_groups[0]["lr"] = self.rate * rate_at(k, steps, warmup)
            optimizer.zero_grad(set_to_none=True)
            loss = torch.stack([self._mean(error, batch.to(device())) for batch in batches]).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(weights, CLIP_NORM)
            optimizer.step()
            ema.update(self.network, k + 1)
            yield loss.item()
        self.network.load_state_dict(ema.values)
        self.network.eval()

    def _mean(self, error: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> Tensor:
        assert batch.source is not None
        voxels = error(self.source(batch.source), self.target(batch.target))
        weight = weight_of(batch)
        return voxels.mean() if weight is None else (voxels * weight).mean()

    def volume(self, translated: Callable[[Tensor], Tensor], source: FloatArray) -> FloatArray:
        """Return the translation of a whole volume, in nndiff's units."""
        y = self.source(torch.from_numpy(source)[None].to(device()))
        with torch.no_grad():
            estimate = self.target.back(translated(y))[0].cpu()
        return estimate.numpy()

    def tiled(self, network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return what a network makes of a volume, merged from tiles of the size of the training's patches."""
        z, y, x_ = x.shape[2:]
        tiling = Tiling((z, y, x_), padded(self.configuration.patch_size, self.multiple), self.overlap)
        return tiling.merge(network(tiling.extract(x, i)) for i in range(len(tiling)))


def values_of(data: Data, what: str, every: int = 7) -> FloatArray:
    """Return a sample of the voxels of the training cases."""
    arrays = (np.asarray(store.open_case(data.folder, case)[what]) for case in data.training)
    return np.concatenate([array.reshape(-1)[::every] for array in arrays])


def scales_of(data: Data, kind: Callable[[FloatArray], Scale]) -> tuple[Scale, Scale]:
    return kind(values_of(data, "source")), kind(values_of(data, "target"))


def nnunet(data: Data, seed: int, rate: float | None, architecture: str, named: str, residual: bool = False) -> Begin:
    """Return the training of a network of nnU-Net; `residual`: of its difference from the source."""
    planned, scales = data.plan.configurations[data.name], scales_of(data, Scale.standard)

    def begin(steps: int) -> Training:
        torch.manual_seed(seed_of(seed))
        inputs, outputs = len(data.plan.source_channels), len(data.plan.target_channels)
        network = nnunet_network(architecture, planned.patch_size, planned.spacing, inputs, outputs)
        peer = Peer(data, network, scales, strides_of(network), 0.5, rate or 1e-3)

        def ask(source: Tensor) -> Tensor:
            answer = peer.ask(source)
            return answer + source[:, list(data.plan.anchor)] if residual else answer

        walk = peer.steps(lambda source, target: (ask(source) - target).abs(), steps, seed)

        def translated(source: FloatArray, draw: int) -> FloatArray:
            return peer.volume(partial(peer.tiled, ask), source)

        return Training(walk, lambda: [Reading(named, translated)])

    return begin


def strides_of(network: nn.Module) -> Triple:
    """Return the product of the strides along every axis."""
    encoder: Any = network.encoder
    z, y, x = (math.prod(int(stride[axis]) for stride in encoder.strides) for axis in range(3))
    return z, y, x


def monai(data: Data, seed: int, rate: float | None) -> Begin:
    from monai.inferers import DiffusionInferer
    from monai.networks.schedulers import RFlowScheduler

    planned, scales = data.plan.configurations[data.name], scales_of(data, Scale.percentile)
    assert isinstance(planned.network, UNetSpec)
    channels = [planned.network.width * multiplier for multiplier in planned.network.multipliers]
    outputs = len(data.plan.target_channels)

    def begin(steps: int) -> Training:
        torch.manual_seed(seed_of(seed))
        network = monai_unet(channels, len(data.plan.source_channels) + outputs, outputs)
        stride = 2 ** (len(channels) - 1)
        peer = Peer(data, network, scales, (stride, stride, stride), 0.25, rate or 3e-4)
        scheduler = RFlowScheduler(num_train_timesteps=1000)
        inferer = DiffusionInferer(scheduler)

        def error(source: Tensor, target: Tensor) -> Tensor:
            noise = torch.randn_like(target)
            timesteps = scheduler.sample_timesteps(target)
            ask = partial(inferer, target, peer.network, noise, timesteps, condition=source, mode="concat")
            with autocast(device().type, peer.precision):
                velocity = ask()
            return (velocity.float() - (target - noise)).square()

        def draw(y: Tensor, seed: int) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(1, outputs, *y.shape[2:], generator=generator).to(y)
            scheduler.set_timesteps(FLOW_STEPS, device=y.device)

            def ask(x: Tensor, timesteps: Tensor, **_: object) -> Tensor:
                return peer.tiled(lambda tile: peer.ask(tile, timesteps), x)

            drawn: Tensor = inferer.sample(noise, ask, scheduler, conditioning=y, mode="concat", verbose=False)
            return drawn

        walk = peer.steps(error, steps, seed)
        name = f"MONAI, flow of {FLOW_STEPS} steps"
        return Training(
            walk, lambda: [Reading(name, lambda source, k: peer.volume(partial(draw, seed=k), source), FLOW_DRAWS)]
        )

    return begin


ROWS = (
    Row("nndiff", partial(planned, plan=lambda plan: plan, named="nndiff", draws=True)),
    Row("nndiff Haar", partial(planned, plan=partial(varied, variant="haar"), named="nndiff Haar", draws=True)),
    Row("nndiff r1", partial(planned, plan=partial(varied, variant="r1"), named="nndiff without puzzle", draws=True)),
    Row("Fast-DDPM", partial(planned, plan=fast_ddpm, named="Fast-DDPM recipe, ten steps", draws=False)),
    Row("nnU-Net plain", partial(nnunet, architecture="PlainConvUNet", named="nnU-Net, plain"), "nnunetv2"),
    Row(
        "nnU-Net residual",
        partial(nnunet, architecture="PlainConvUNet", named="nnU-Net, plain, plus the source", residual=True),
        "nnunetv2",
    ),
    Row("nnU-Net ResEnc", partial(nnunet, architecture="ResidualEncoderUNet", named="nnU-Net, ResEnc"), "nnunetv2"),
    Row("MONAI flow", monai, "monai"),
)


# ---------------------------------------------------------------- measuring


def measured(data: Data, case: str, draws: Sequence[FloatArray]) -> Cells:
    """Return the figures of the first of the draws of a case, and the CRPS of all."""
    truth = np.array(store.open_case(data.folder, case)["target"])
    bounds = [bounds_of(channel, t) for channel, t in zip(data.plan.target_channels, truth, strict=True)]
    figures = compare(draws[0], truth, bounds, None, texture=True)
    spread = [crps([draw[c] for draw in draws], truth[c]) for c in range(len(truth))] if len(draws) > 1 else []
    hot = [hot_bias(e, t, low) for e, t, (low, _) in zip(draws[0], truth, bounds, strict=True)]
    cells = asdict(figures) | {"crps": fmean(spread) if spread else figures.mae, "hot_bias": fmean(hot)}
    return {name: float(f"{cells[name]:.5g}") for name in FIGURES}


def hot_bias(estimate: FloatArray, truth: FloatArray, zero: float) -> float:
    hot = truth >= np.percentile(truth, 99)
    return float((estimate[hot].mean() - zero) / (truth[hot].mean() - zero)) - 1


def baselines(data: Data) -> Iterator[Cells]:
    for name, kind in (("input", "input"), ("best Gaussian", "best Gaussian")):
        for case in data.held:
            estimate = baseline(data.plan, data.name, data.folder, case, kind)
            yield {"row": name, "case": case} | measured(data, case, [estimate])


def rows_of(data: Data, row: Row, seed: int, minutes: float, rate: float | None) -> Iterator[Cells]:
    """Train a row, translate the held-out cases, and yield their figures."""
    readings, steps, took = trained(row.begin(data, seed, rate), 60 * minutes)
    for reading in readings:
        for case in data.held:
            source = np.array(store.open_case(data.folder, case)["source"])
            seeds = [draw_seed(seed, case, k) for k in range(reading.draws)]
            made = [timed(partial(reading.translate, source, draw)) for draw in seeds]
            yield {
                "row": reading.name,
                "seed": seed,
                "case": case,
                "minutes": minutes,
                "steps": steps,
                "trained_s": round(took, 1),
                "volume_s": round(median(seconds for _, seconds in made), 3),
            } | measured(data, case, [estimate for estimate, _ in made])


# ---------------------------------------------------------------- the tables

HEADS = ("", "steps", "PSNR dB", "SSIM", "fine power body", "air", "texture dB", "CRPS", "hot bias", "s a volume")


def tables(rows: Sequence[Cells]) -> Iterator[tuple[str, list[Sequence[str]]]]:
    """Yield the title and the cells of every dataset: means, and the seeds' smallest and largest PSNR."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        own = [row for row in rows if row["dataset"] == dataset]
        names = dict.fromkeys(row["row"] for row in own)
        held = len({row["case"] for row in own})
        minutes = ", ".join(dict.fromkeys(str(row["minutes"]) for row in own if row["minutes"]))
        title = f"{dataset}: {minutes} minutes of training, {held} held-out volumes"
        yield title, [HEADS, *(cells([row for row in own if row["row"] == name]) for name in names)]


def cells(rows: Sequence[Cells]) -> list[str]:
    def mean(key: str, digits: int, scale: float = 1.0) -> str:
        values = [float(row[key]) for row in rows if row[key] != ""]
        defined = [value for value in values if not math.isnan(value)]
        return f"{scale * fmean(defined):.{digits}f}" if defined else ""

    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    by_seed = [fmean(float(row["psnr"]) for row in rows if row["seed"] == seed) for seed in seeds]
    psnr = f"{fmean(by_seed):.2f}" + (f" ({min(by_seed):.2f} to {max(by_seed):.2f})" if len(seeds) > 1 else "")
    rest = [mean("ssim", 3), mean("hf_body", 2), mean("hf_air", 2), mean("texture_db", 1), mean("crps", 4)]
    return [rows[0]["row"], mean("steps", 0), psnr, *rest, f"{mean('hot_bias', 1, 100)} %", mean("volume_s", 2)]


def as_text(rows: Sequence[Cells]) -> str:
    return "\n\n".join(f"{title}\n{text_table(body)}" for title, body in tables(rows))


def as_markdown(rows: Sequence[Cells]) -> str:
    parts = []
    for title, (heads, *body) in tables(rows):
        lines = [" | ".join(line) for line in (heads, ["---", *["---:"] * (len(heads) - 1)], *body)]
        parts.append("\n".join([f"**{title}**", "", *(f"| {line} |".replace("|  |", "| |") for line in lines)]))
    return "\n\n".join(parts)


def load(path: Path) -> list[Cells]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, (*COLUMNS, "started_as", *PLACE))
        if new:
            writer.writeheader()
        writer.writerows(dict.fromkeys(writer.fieldnames, "") | dict(row) for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("prepared", type=Path, nargs="*", metavar="PREPARED")
    parser.add_argument("--minutes", type=float, default=5.0, help="time of a training (5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held_out", type=int, default=4, metavar="N", help="volumes to measure on (4)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ROW", choices=[row.name for row in ROWS], help="only these rows"
    )
    parser.add_argument("--rate", type=float, default=None, help="learning rate in place of each row's own")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, metavar="FILE.csv")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the file; measure nothing")
    arguments = parser.parse_args(argv)
    if arguments.markdown:
        print(as_markdown(load(arguments.output)))
        return 0
    wanted = [row for row in ROWS if not arguments.only or row.name in arguments.only]
    absent = missing(row.needs for row in wanted)
    if absent:
        print(f"Not installed, so their rows are left out: {', '.join(absent)}")
    for seed in arguments.seeds:
        for folder in arguments.prepared:
            data, place = found(folder, arguments.held_out), machine()
            for row in [None, *(row for row in wanted if row.needs not in absent)]:
                started = "baselines" if row is None else f"{row.name} {seed}"
                known = {(cells["dataset"], cells["started_as"]) for cells in load(arguments.output)}
                if (folder.name, started) in known:
                    continue
                made = baselines(data) if row is None else rows_of(data, row, seed, arguments.minutes, arguments.rate)
                rows = [{"dataset": folder.name, "started_as": started} | place | cells for cells in made]
                add(rows, arguments.output)
                for name in dict.fromkeys(cells["row"] for cells in rows):
                    found_cells = cells([dict.fromkeys(COLUMNS, "") | r for r in rows if r["row"] == name])
                    print(folder.name, seed, " | ".join(found_cells), flush=True)
    print(f"\n{as_text(load(arguments.output))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
