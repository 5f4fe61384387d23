"""The prior of a new training, measured in its training cases: the mean image and the spectrum of what differs from it.

    generation    mean = the mean training volume
    translation   target = mean + slope · local mean of the source      least squares over all voxels
    both          S_k = mean over the cases of (C·(x0 - r))_k²          C: the cosine transform of the patch
                  m(u, t) = mean of x0 - u over voxels of equal u         at noised middles of the cases

The prior is stored with the weights of the network (networks/prior.py). A network without one is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from nndiff.diffusion.process import Process
from nndiff.imaging import store
from nndiff.networks.prior import LEAST, LEVELS, TIMES, VALUES, Prior, cosines
from nndiff.training.batches import cut_out
from nndiff.training.loop import Trainer
from nndiff.words.errors import NndiffError
from nndiff.words.seeds import seed_of
from nndiff.words.volume import Floats, Triple

MOST_CASES = 500  # drawn at random from a larger training set: the mean then errs by less than a twentieth of a spread
SMOOTHED = 3  # frequencies per axis over which the logarithm of the spectrum is averaged
CURVE_CASES = 16  # cases of which the curves are measured: a million voxels
FEW = 30  # voxels that a node of a curve must outweigh to differ from 0
PRIOR = 7  # stream of random numbers


def learn(trainer: Trainer, folder: Path) -> None:
    """Set the prior of the trainer's network, and of its moving average, from the training cases in `folder`."""
    prior = getattr(trainer.network, "prior", None)
    if not isinstance(prior, Prior):
        return
    cases = _drawn(trainer.run.training, trainer.run.seed)
    _set(prior, {"levels": levels(trainer.formulation.process)})
    _set(prior, _line(folder, cases, prior) if prior.anchors else {"mean": _mean_volume(folder, cases, prior)})
    _set(prior, {"variance": _spectrum(folder, cases, prior)})
    _set(prior, _curves(folder, cases, prior, trainer.run.seed))
    for name, value in prior.state_dict().items():
        trainer.ema.values[f"prior.{name}"].copy_(value)


def levels(process: Process) -> Tensor:
    """Return the process as the prior stores it, [3, LEVELS]; refuse one that starts from the source."""
    a, b, sigma = process.coefficients(torch.linspace(0, 1, LEVELS, dtype=torch.float64))
    if b.any():
        raise NndiffError(
            "The prior of a transformer is defined for processes that end in noise.",
            expected="x_t = a·x0 + sigma·eps",
            found=f"at t = 1, x_t contains {float(b[-1]):.3g} of the source",
            remedy="plan another process, or no prior (--set configurations.NAME.network.prior_shape=null)",
        )
    return torch.stack([a, sigma, torch.full_like(a, process.scale)]).float()


def line(sums: Floats) -> tuple[Floats, Floats]:
    """Return mean and slope of the best line per channel, from Σ 1, x, y, x², xy over all voxels, [5, C]."""
    _, x, y, xx, xy = sums / sums[0]
    variance, covariance = xx - x**2, xy - x * y
    slope = np.where(variance > 0, covariance / np.maximum(variance, 1e-12), 0.0)
    return y - slope * x, slope


def middle(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the middle of a volume [1, C, Z, Y, X]; beyond a smaller one its border is repeated, as in a patch."""
    corner = [max(0, (n - p) // 2) for n, p in zip(volume.shape[2:], shape, strict=True)]
    patch: Triple = (shape[0], shape[1], shape[2])
    return torch.from_numpy(cut_out(volume[0].numpy(), corner, patch))[None]


def _mean_volume(folder: Path, cases: Sequence[str], prior: Prior) -> Tensor:
    total = torch.zeros_like(prior.mean, dtype=torch.float64)
    for case in cases:
        x0, _ = _pair(folder, case)
        if x0.shape != total.shape:
            raise NndiffError(
                "The volume of a case differs in shape from the mean volume of the plan.",
                expected=f"{tuple(total.shape[2:])} voxels (network.prior_shape)",
                found=f"{tuple(x0.shape[2:])} voxels in case {case}",
                where=folder,
                remedy="plan again, so that patch, volume and prior have one shape",
            )
        total += x0
    return total / len(cases)


def _line(folder: Path, cases: Sequence[str], prior: Prior) -> dict[str, Tensor]:
    """Return mean and slope of the line of the targets over the local means of their sources."""
    sums = np.zeros((5, prior.slope.shape[1]))
    for case in cases:
        y, source = _pair(folder, case)
        assert source is not None
        x = prior.local(source)
        sums += [values.double().sum(dim=(0, 2, 3, 4)).numpy() for values in (torch.ones_like(x), x, y, x**2, x * y)]
    mean, slope = (torch.from_numpy(values)[None, :, None, None, None] for values in line(sums))
    return {"mean": mean, "slope": slope}


def _spectrum(folder: Path, cases: Sequence[str], prior: Prior) -> Tensor:
    """Return the variance of each cosine of x0 - r, [1, C, Z, Y, X], in the middle of every case.

    Its logarithm is averaged over neighbouring frequencies, because the variance of a few cases is a rough estimate.
    """
    total = torch.zeros_like(prior.variance, dtype=torch.float64, device="cpu")
    for case in cases:
        x0, source = _pair(folder, case)
        x0, source = middle(x0, total.shape[2:]), None if source is None else middle(source, total.shape[2:])
        total += cosines(x0 - prior.reference(x0, source)).square()
    freedom = len(cases) if prior.anchors else max(1, len(cases) - 1)  # the mean volume was fitted to the same cases
    rough = (total / freedom).clamp_min(LEAST).log().numpy()
    return torch.from_numpy(np.exp(uniform_filter(rough, (1, 1, SMOOTHED, SMOOTHED, SMOOTHED), mode="nearest")))


def _curves(folder: Path, cases: Sequence[str], prior: Prior, seed: int) -> dict[str, Tensor]:
    """Return the table of m and the errors that remain; every case is noised to every time of the table but 0 and 1."""
    cases = [cases[i] for i in np.linspace(0, len(cases) - 1, min(len(cases), CURVE_CASES)).astype(int)]
    images = [tuple(_middle_of(part, prior) for part in _pair(folder, case)) for case in cases]
    targets, device = prior.slope.shape[1], prior.mean.device
    values = torch.stack([image.transpose(0, 1).flatten(1) for image, _ in images if image is not None])
    limits = torch.stack([values.amin(dim=(0, 2)), values.amax(dim=(0, 2))])
    _set(prior, {"limits": limits, "curves": torch.zeros_like(prior.curves), "ratio": torch.ones_like(prior.ratio)})
    curves, ratio = torch.zeros(TIMES, targets, VALUES), torch.ones(TIMES, targets)
    for i in range(1, TIMES - 1):
        t = torch.tensor([i / (TIMES - 1)], device=device)
        a, sigma, _ = prior.at(t)
        sums, weights = torch.zeros(targets, VALUES), torch.full((targets, VALUES), float(FEW))
        before, expected = torch.zeros(targets), torch.zeros(targets)
        for n, (image, source) in enumerate(images):
            assert image is not None
            x0 = image.to(device)
            generator = torch.Generator().manual_seed(seed_of(PRIOR, seed, n * TIMES + i))
            eps = torch.randn(x0.shape, generator=generator).to(device)
            known = prior(a * x0 + sigma * eps, t, None if source is None else source.to(device))
            rest = (x0 - known.x0)[0].flatten(1).cpu()  # [C, N]
            place = ((known.x0[0].flatten(1).cpu() - limits[0][:, None]) / (limits[1] - limits[0])[:, None]).clamp(0, 1)
            place = place * (VALUES - 1)
            below = place.floor().clamp(max=VALUES - 2).long()
            for node, weight in ((below, 1 - (place - below)), (below + 1, place - below)):
                sums.scatter_add_(1, node, weight * rest)
                weights.scatter_add_(1, node, weight)
            before += rest.square().mean(1)
            expected += known.error_x0[0, :, 0, 0, 0].cpu() ** 2
        curves[i] = sums / weights
        gained = (sums**2 / weights).sum(1) / values.shape[2]  # Σ over the nodes of weight · m²
        ratio[i] = ((before - gained).clamp_min(LEAST) / expected.clamp_min(LEAST)).sqrt()
    ratio[0], ratio[-1] = ratio[1], 1.0
    return {"curves": curves, "ratio": ratio}


def _middle_of(part: Tensor | None, prior: Prior) -> Tensor | None:
    return None if part is None else middle(part, prior.variance.shape[2:])


def _pair(folder: Path, case: str) -> tuple[Tensor, Tensor | None]:
    """Return target and source of a case, [1, C, Z, Y, X]."""
    arrays = store.open_case(folder, case)
    target, source = (
        torch.from_numpy(np.array(arrays[name], dtype=np.float32))[None] if name in arrays else None
        for name in ("target", "source")
    )
    assert target is not None
    return target, source


def _set(prior: Prior, found: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in found.items():
            getattr(prior, name).copy_(value)


def _drawn(cases: Sequence[str], seed: int) -> list[str]:
    if len(cases) <= MOST_CASES:
        return list(cases)
    order = np.random.default_rng(seed_of(PRIOR, seed)).permutation(len(cases))[:MOST_CASES]
    return [cases[i] for i in sorted(order)]
