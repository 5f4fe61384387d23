"""Construction of objects (networks, processes, objectives, augmentations) from the names and options in a plan.

Only this module does so. A formulation is a process and a prediction: how x_t is made from a volume, and how a
network's output becomes an estimate of that volume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nndiff.diffusion.losses import LOSSES
from nndiff.diffusion.objectives import OBJECTIVES, Network, Objective
from nndiff.diffusion.prediction import PREDICTIONS, Estimate, Prediction
from nndiff.diffusion.process import PROCESSES, Process
from nndiff.families import NetworkSpec
from nndiff.plans.plan import Configuration, Lesson, Stage
from nndiff.walk.part import Setting
from nndiff.words.errors import NndiffError
from nndiff.words.fingerprint import Curve
from nndiff.words.scheme import Scheme
from nndiff.words.volume import Triple

if TYPE_CHECKING:
    from nndiff.imaging.augment import Augmentation


@dataclass(frozen=True)
class Formulation:
    """A process and a prediction."""

    process: Process
    prediction: Prediction

    def view(self, x_t: Tensor, y: Tensor | None, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network is shown in place of x_t and t."""
        return self.prediction.view(self.process, x_t, y, t)

    def estimate(self, output: Tensor, x_t: Tensor, y: Tensor | None, t: Tensor) -> Estimate:
        return self.prediction.estimate(self.process, output, x_t, y, t)


def build_network(spec: NetworkSpec, puzzle_factor: Triple, *, unset: bool = False) -> nn.Module:
    """Return the network (x_t, t, condition) → output, in image space, with its weights channels last.

    Its weights hold what happened to be in memory if they are left unset, for whoever replaces them all.
    """
    with _Unset() if unset else nullcontext():
        return spec.build(puzzle_factor)


class _Unset(TorchFunctionMode):
    """Leaves weights as they are, in place of drawing them at random, which takes longer than to load them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs or {})


def build_process(scheme: Scheme) -> Process:
    process: Process = PROCESSES.make(scheme.name, scheme.options)
    return process


def build_formulation(
    scheme: Scheme,
    name: str,
    distance: float,
    open_part: float,
    open_curve: tuple[Curve, ...] = (),
    grain: float = 0.0,
) -> Formulation:
    """Return the process and the prediction; refuse a prediction that is undefined at t = 1, where sampling starts."""
    process = build_process(scheme)
    options = {"distance": distance, "open_part": open_part, "open_curve": open_curve, "grain": grain}
    prediction = PREDICTIONS.make(name, options)
    if prediction.tells_error and not open_part > 0:
        raise NndiffError(
            f"The prediction '{name}' needs to know how much of the target the source leaves open.",
            expected="open_part above 0: translation, not generation",
            found=open_part,
            remedy="pass --set configurations.NAME.prediction=x0",
        )
    a, _, sigma = process.at(1.0)
    if not prediction.defined(a, sigma):
        raise NndiffError(
            f"The prediction '{name}' is undefined at t = 1, where the process '{scheme.name}' starts.",
            expected="a prediction that gives x0 there: x0, x0_skip or residual",
            found=f"x_t = {a:.3g}·x0 + {sigma:.3g}·eps + …",
            remedy="pass --set configurations.NAME.prediction=x0",
        )
    return Formulation(process, prediction)


def formulation_of(planned: Configuration | Lesson) -> Formulation:
    return build_formulation(
        planned.process,
        planned.prediction,
        planned.source_distance,
        planned.open_part,
        planned.open_curve,
        planned.grain,
    )


def setting_of(configuration: Configuration) -> Setting:
    """Return the properties of this configuration that the parts of a sampler may use."""
    return Setting(build_process(configuration.process), configuration.network, configuration.puzzle_factor)


def build_objective(stage: Stage, formulation: Formulation) -> Objective:
    loss = LOSSES.make(stage.loss.name, stage.loss.options)
    row: Callable[..., Objective] = OBJECTIVES[stage.objective.name]
    OBJECTIVES.demand_options(stage.objective.name, stage.objective.options, after=3)
    return row(formulation.process, formulation.prediction, loss, **stage.objective.options)


def build_augmentations(schemes: Sequence[Scheme]) -> tuple[Augmentation, ...]:
    from nndiff.imaging.augment import AUGMENTATIONS  # loads batchgenerators and pandas, which only training needs

    return tuple(AUGMENTATIONS.make(scheme.name, scheme.options) for scheme in schemes)


def set_trained(network: nn.Module, part: str) -> None:
    """Freeze all weights except those of one part; "all" freezes none."""
    named = dict(network.named_parameters())
    chosen = {name for name in named if part == "all" or name.startswith(f"{part}.")}
    if not chosen:
        depth = part.count(".") + 1
        parts = sorted({".".join(name.split(".")[:depth]) for name in named})
        raise NndiffError(
            "A training stage names a part that the network does not have.",
            expected=f"all, {', '.join(parts)}",
            found=part,
        )
    for name, weight in named.items():
        weight.requires_grad_(name in chosen)


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()


def asked(network: nn.Module, device: str, precision: str) -> Network:
    """Return the network as an objective evaluates it: under autocast, with its output in fp32."""

    def ask(x_t: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        with autocast(device, precision):
            output: Tensor = network(x_t, t, condition)
        return output.float()

    return ask
