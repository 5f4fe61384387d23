"""The training loop: a generator of steps. Logging, saving, plotting and stopping are left to the caller.

    t ~ the objective's distribution        eps ~ N(0, I)        loss = objective.loss(network, batch, t, eps, weight)

All random numbers of step i are derived from (seed, i). The whole state of the loop is therefore: the weights of the
network and of the objectives, the moving average of the network's weights, AdamW's moments, and i.
"""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nndiff.assemble import Formulation, asked, build_network, build_objective, formulation_of, set_trained
from nndiff.checkpoint import Checkpoint, Run, Step
from nndiff.diffusion.objectives import Objective, Pairs
from nndiff.networks.lean import channels
from nndiff.plans.plan import Configuration, Plan
from nndiff.resources.recording import recording_on
from nndiff.training.batches import Batch, Share
from nndiff.training.ema import EMA
from nndiff.training.ranks import Ranks
from nndiff.training.recorder import Recorder
from nndiff.words.errors import NndiffError
from nndiff.words.seeds import seed_of

OUTSIDE_MASK = 0.1  # weight of errors outside the mask; not 0, because new cases have no mask
CLIP_NORM = 1.0
WEIGHT_DECAY = 1e-4
LAST_RATE = 0.01  # the last learning rate of the cosine, as a share of the full rate
TIMES, NOISE = 3, 4  # streams of random numbers, different from those of batches.py
WEIGHTS = 5


@dataclass(frozen=True, eq=False)
class Drawn:
    """A batch on the device, and what was drawn for it: the time and the noise of every sample."""

    batch: Batch
    t: Tensor  # [B], float64
    eps: Tensor  # as the targets


class Trainer:
    """The state of a training: network, moving average, objectives, optimiser and step counter."""

    def __init__(self, plan: Plan, name: str, run: Run, device: torch.device, ranks: Ranks):
        self.configuration: Configuration = plan.configurations[name]
        self.anchor, self.run, self.device, self.ranks = plan.anchor, run, device, ranks
        torch.manual_seed(seed_of(WEIGHTS, run.seed))
        network = build_network(self.configuration.network, self.configuration.puzzle_factor)
        self.network: nn.Module = network.to(device)
        self.ema = EMA(self.network, run.ema_half_life)
        self.formulation: Formulation = formulation_of(self.configuration)
        stages = self.configuration.stages
        self.objectives = nn.ModuleList(build_objective(stage, self.formulation) for stage in stages).to(device)
        self.optimizer = torch.optim.AdamW(
            self._trainable(),
            self.configuration.learning_rate,
            weight_decay=WEIGHT_DECAY,
            fused=fused(device),
        )
        self.recorder = Recorder[Drawn](tuple(self._trainable()), recording_on(device))
        self.step = 0

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def restore(self, found: Checkpoint) -> None:
        self.network.load_state_dict(found.weights)
        self.objectives.load_state_dict(found.objectives)
        self.ema.restore(found.ema)
        self.optimizer.load_state_dict(found.optimizer)
        self.step = found.step

    def begin_with(self, weights: dict[str, Tensor]) -> None:
        """Set the initial weights of the network and of its moving average."""
        self.network.load_state_dict(weights)
        self.ema = EMA(self.network, self.run.ema_half_life)

    def steps(self, batches: Iterable[list[Batch]]) -> Iterator[Step]:
        """Yield a Step after one optimiser step for every item of `batches`, which begin at `self.step`."""
        number: int | None = None  # number of the current stage
        clock = time.perf_counter()
        for step_batches in batches:
            ready = time.perf_counter()
            now, first, rate = stage_at(self.configuration, self.run, self.step)
            if now != number:
                number, objective = now, self.objective(now)
                if self.step == first > 0:
                    self._hand_over()
                set_trained(self.network, self.configuration.stages[now].trains)
                self.recorder.begin_anew()
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            mean_loss = self._accumulate(objective, step_batches)
            trained = [w for w in (*self.network.parameters(), *objective.parameters()) if w.requires_grad]
            self.ranks.average([w.grad for w in trained if w.grad is not None])
            norm_of_all = nn.utils.clip_grad_norm_(trained, CLIP_NORM)
            loss, norm = torch.stack([mean_loss, norm_of_all]).tolist()  # one wait for the device, not two
            if not math.isfinite(norm):
                raise _not_finite(self.step, rate, self.configuration.precision)
            self.optimizer.step()
            self.step += 1
            self.ema.update(self.network, self.step - first)
            done = time.perf_counter()
            yield Step(
                number=self.step,
                loss=loss,
                gradient_norm=norm,
                learning_rate=rate,
                seconds=done - clock,
                waited=ready - clock,
            )
            clock = time.perf_counter()

    def _hand_over(self) -> None:
        """Start a stage from the averaged weights of the previous stage, which prediction would use."""
        self.network.load_state_dict(self.ema.values)

    def _trainable(self) -> Iterator[nn.Parameter]:
        yield from self.network.parameters()
        yield from self.objectives.parameters()

    def objective(self, stage: int) -> Objective:
        found = self.objectives[stage]
        assert isinstance(found, Objective)
        return found

    def _accumulate(self, objective: Objective, batches: Sequence[Batch]) -> Tensor:
        """Compute the gradients of the mean loss over the batches, and return that loss."""

        def inputs(kept: Sequence[Drawn] | None) -> Iterator[Drawn]:
            for i, batch in enumerate(batches):
                yield self.drawn(objective, batch, None if kept is None else kept[i])

        def compute(inputs: Iterable[Drawn]) -> Tensor:
            total = torch.zeros((), device=self.device)
            for drawn in inputs:
                value = self._loss_of(self.network, objective, drawn) / len(batches)
                value.backward()  # type: ignore[no-untyped-call]
                total += value.detach()
            return total

        kind: Hashable = tuple(batch.kind for batch in batches)
        return self.recorder.gradients(kind, inputs, compute)

    def drawn(self, objective: Objective, batch: Batch, kept: Drawn | None = None) -> Drawn:
        """Return a batch on the device with its times and noises; in the tensors of `kept`, if they are given."""
        t = times(objective, batch.numbers, self.run.seed, self.run.samples_a_step)
        shape = batch.target.shape[1:]
        if kept is None:
            t = t.to(self.device) if self.device.type == "cuda" else t  # MPS has no float64
            eps = torch.stack([noise(shape, self.run.seed, n, self.device) for n in batch.numbers])
            return Drawn(batch.to(self.device), t, eps)
        kept.batch.fill(batch)
        kept.t.copy_(t)
        for place, number in zip(kept.eps, batch.numbers, strict=True):
            place.copy_(noise(shape, self.run.seed, number, self.device))
        return kept

    def loss(self, network: nn.Module, objective: Objective, batch: Batch) -> Tensor:
        """Return the objective's loss of one batch, at the times and noises of its samples."""
        return self._loss_of(network, objective, self.drawn(objective, batch))

    def _loss_of(self, network: nn.Module, objective: Objective, drawn: Drawn) -> Tensor:
        prior = getattr(self.network, "prior", None)
        at = drawn.t.to(self.device, torch.float32)
        level = None if prior is None else prior.weights(at, drawn.batch.target.shape[2:])
        return self.loss_at(network, objective, drawn.batch, drawn.t, drawn.eps, level)

    def loss_at(
        self,
        network: nn.Module,
        objective: Objective,
        batch: Batch,
        t: Tensor,
        eps: Tensor,
        level: Tensor | None = None,  # weight of each output of each sample, [B, outputs, 1, 1, 1]
    ) -> Tensor:
        y = None if batch.source is None else channels(batch.source, self.anchor)
        weight = weight_of(batch)
        if level is not None:
            level = level.expand(-1, -1, *batch.target.shape[2:])
            weight = level if weight is None else weight * level
        ask = asked(network, self.device.type, self.configuration.precision)
        return objective.loss(ask, Pairs(batch.target, batch.source, y), t, eps, weight)


def weight_of(batch: Batch) -> Tensor | None:
    """Return the weight of each voxel in the loss, [B, 1, Z, Y, X]: 0 in the padding; None if all weights are 1."""
    weight = None if batch.mask is None else torch.where(batch.mask, 1.0, OUTSIDE_MASK)
    if batch.inside is None:
        return weight
    return batch.inside.float() if weight is None else weight * batch.inside


# ---------------------------------------------------------------- schedules


def stage_ends(configuration: Configuration, run: Run) -> list[int]:
    """Return, for each stage, the step after its last one."""
    total, share, ends = sum(stage.share for stage in configuration.stages), 0.0, []
    for stage in configuration.stages:
        share += stage.share
        ends.append(round(run.training_steps * share / total))
    return ends


def stage_at(configuration: Configuration, run: Run, step: int) -> tuple[int, int, float]:
    """Return the number of the stage to which a step belongs, the first step of the stage, and the learning rate.

    The learning rate of each stage is a warm-up followed by half a cosine.
    """
    first = 0
    for number, end in enumerate(stage_ends(configuration, run)):
        if step < end:
            rate = rate_of(configuration, number) * rate_at(step - first, end - first, run.warmup_steps)
            return number, first, rate
        first = end
    last = len(configuration.stages) - 1
    return last, first, rate_of(configuration, last) * LAST_RATE


def rate_of(configuration: Configuration, stage: int) -> float:
    """Return the highest learning rate of a stage."""
    return configuration.learning_rate * configuration.stages[stage].rate


def rate_at(k: int, steps: int, warmup: int) -> float:
    """Return the learning rate at step k of `steps`, as a share of the full rate."""
    warmup = min(warmup, steps // 2)
    if k < warmup:
        return (k + 1) / warmup
    progress = (k - warmup) / max(1, steps - warmup)
    return LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * progress)) / 2


# ---------------------------------------------------------------- random numbers


def times(objective: Objective, numbers: Sequence[int], seed: int, samples_a_step: int) -> Tensor:
    """Return t of each sample, float64 [B].

    The shares of the samples of one step are spread evenly, beginning with a random offset.
    """
    shares = []
    for number in numbers:
        step, place = divmod(number, samples_a_step)
        offset = float(np.random.default_rng([TIMES, seed, step]).random())
        shares.append((offset + place / samples_a_step) % 1.0)
    return torch.tensor([objective.time_of(share) for share in shares], dtype=torch.float64)


def noise(shape: torch.Size, seed: int, number: int, device: torch.device) -> Tensor:
    """Return the noise of sample `number`, drawn on the device."""
    generator = torch.Generator(device).manual_seed(seed_of(NOISE, seed, number))
    return torch.randn(shape, generator=generator, device=device)


# ---------------------------------------------------------------- around it


def share_of(configuration: Configuration, ranks: Ranks, samples: int | None = None) -> Share:
    """Return the samples that this rank computes of each step.

    Every rank has the batch size of the plan. More ranks first reduce the accumulated batches, then enlarge the step;
    a step of so many `samples` is divided among the ranks, if they can.
    """
    batch = configuration.batch_size * ranks.world
    accumulate = math.ceil(configuration.accumulate / ranks.world)
    if samples is not None and samples % batch == 0:
        accumulate = samples // batch
    return Share(configuration.batch_size, accumulate, ranks.rank, ranks.world)


def fused(device: torch.device) -> bool:
    return device.type in ("cuda", "cpu")


def _not_finite(step: int, rate: float, precision: str) -> NndiffError:
    tries = [f"a lower learning rate (now {rate:.2g}): --set learning_rate={rate / 3:.1g}"]
    if precision == "bf16":
        tries.append("full precision: --set precision=fp32")
    return NndiffError(
        f"The training stopped, because the gradient of step {step + 1} is NaN or infinite.",
        where="the step was not taken; the last checkpoint is valid and unchanged",
        remedy=f"train again with {', or '.join(tries)}; check fingerprint.json for a case with extreme intensities",
    )
