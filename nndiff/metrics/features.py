"""Feature extractors: each maps a volume to a feature vector, from which distances between sets are computed.

random       an untrained network with a fixed seed: needs no file, is the same everywhere, does not represent anatomy
medicalnet   the extractor of publications: MedicalNet's 3D ResNet-50, with weights that the user provides
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiff.words.errors import NndiffError
from nndiff.words.registry import Registry
from nndiff.words.volume import FloatArray, Floats

SMALLEST_AXIS = 8  # voxels: MedicalNet's last map has an eighth of the resolution, here one voxel


class Extractor(Protocol):
    """A map of one volume [Z, Y, X], float32 in [-1, 1], to its features [D], float64."""

    @property
    def name(self) -> str: ...

    def __call__(self, volume: FloatArray) -> Floats: ...


@dataclass(frozen=True)
class Random:
    """Four untrained 3³ convolutions of stride 2 with ReLU; the features are the mean and the std of every channel.

    Untrained filters respond to edges and texture, not to anatomy, but need no file and are the same everywhere. The
    weights have variance 2/fan-in (He 2015) and come from a fixed seed. An orthogonal projection maps the 240 numbers
    to a few, so that a few volumes suffice. Padding repeats the border, because zeros would create an edge around a
    background of -1.
    """

    dimensions: int = 16
    device: str = "cpu"

    CHANNELS = (8, 16, 32, 64)
    SEED = 2015

    @property
    def name(self) -> str:
        return f"random{self.dimensions}"

    @torch.no_grad()
    def __call__(self, volume: FloatArray) -> Floats:
        kernels, projection = self._weights
        x, pooled = _tensor(volume).to(self.device), []
        for kernel in kernels:
            x = F.relu(F.conv3d(F.pad(x, (1,) * 6, mode="replicate"), kernel, stride=2))  # [1, C, Z/2, Y/2, X/2]
            voxels = x.flatten(2).double()
            pooled += [voxels.mean(2), voxels.std(2, correction=0)]
        return _array(torch.cat(pooled, dim=1) @ projection)

    @cached_property
    def _weights(self) -> tuple[list[Tensor], Tensor]:
        numbers = 2 * sum(self.CHANNELS)
        if not 1 <= self.dimensions <= numbers:
            raise NndiffError(
                "The extractor 'random' cannot compute this number of features.",
                expected=f"dimensions from 1 to {numbers}",
                found=self.dimensions,
            )
        generator, kernels = torch.Generator().manual_seed(self.SEED), []
        for inputs, outputs in zip((1, *self.CHANNELS), self.CHANNELS, strict=False):
            kernel = torch.randn(outputs, inputs, 3, 3, 3, generator=generator) * math.sqrt(2 / (27 * inputs))
            kernels.append(kernel.to(self.device))
        gaussian = torch.randn(numbers, numbers, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(gaussian)
        rotation = q * r.diagonal().sign()  # QR does not determine the signs
        return kernels, rotation[:, : self.dimensions].to(self.device)


@dataclass(frozen=True)
class MedicalNet:
    """MedicalNet's 3D ResNet-50 (Chen 2019): the mean over its last map, 2048 numbers; `weights` is its released file.

    MedicalNet was trained on volumes with mean 0 and standard deviation 1, both computed over the voxels above 0, and
    with noise in the other voxels. Here both are computed over the whole volume, because a background of -1 does not
    mark air. The features therefore depend neither on a volume's brightness nor on its contrast. The published 3D FIDs
    use unstandardised volumes: `standardise=False` does the same, for comparison with them, and changes the name.
    """

    weights: str | Path
    standardise: bool = True
    device: str = "cpu"

    @property
    def name(self) -> str:
        return "medicalnet" if self.standardise else "medicalnet-unstandardised"

    @torch.no_grad()
    def __call__(self, volume: FloatArray) -> Floats:
        x = _tensor(volume)
        if self.standardise:
            deviation, mean = torch.std_mean(x.double(), correction=0)
            x = ((x - mean) / (deviation if deviation > 0 else 1)).float()
        return _array(self._network(x.to(self.device)))

    @cached_property
    def _network(self) -> ResNet50:
        with torch.device("meta"):  # no random initialisation, because every weight comes from the file
            network = ResNet50()
        network.load_state_dict(_fitting(Path(self.weights), network.state_dict()), assign=True)
        return network.to(self.device).eval()


# ---------------------------------------------------------------- MedicalNet's layout


class Bottleneck(nn.Module):
    """A 1³, a 3³ and a 1³ convolution, the last four times as wide; a layer's first block projects its shortcut."""

    EXPANSION = 4

    def __init__(self, inputs: int, width: int, stride: int, dilation: int, projects: bool):
        super().__init__()
        outputs = width * self.EXPANSION
        self.conv1 = nn.Conv3d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = nn.Conv3d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outputs)
        shortcut = (nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs)) if projects else ()
        self.downsample = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, Z, Y, X] → [B, 4·width, Z/stride, …]
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet50(nn.Module):
    """MedicalNet's ResNet-50 without its segmentation head: dilated layers 3 and 4 keep an eighth of the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        self.layer1 = _layer(64, 64, blocks=3)
        self.layer2 = _layer(256, 128, blocks=4, stride=2)
        self.layer3 = _layer(512, 256, blocks=6, dilation=2)
        self.layer4 = _layer(1024, 512, blocks=3, dilation=4)

    def forward(self, x: Tensor) -> Tensor:  # [B, 1, Z, Y, X] → [B, 2048]
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))  # [B, 2048, Z/8, Y/8, X/8]
        return x.mean(dim=(2, 3, 4))


def _layer(inputs: int, width: int, blocks: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    outputs = width * Bottleneck.EXPANSION
    first = Bottleneck(inputs, width, stride, dilation, projects=True)
    return nn.Sequential(first, *(Bottleneck(outputs, width, 1, dilation, projects=False) for _ in range(blocks - 1)))


def _fitting(path: Path, layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the file's weights under the names of the layout, in fp32; refuse the first one that does not fit."""
    stored = _stored(path)
    for name, tensor in layout.items():
        expected, found = _shape(tensor), _shape(stored[name]) if name in stored else f"none among {len(stored)} names"
        if expected != found and not _is_counter(name):
            raise _of_another_layout(path, f"'{name}' of shape {expected}", found)
    for name in stored:
        if name not in layout:
            raise _of_another_layout(path, f"the {len(layout)} names of a ResNet-50 with shortcut B", f"also '{name}'")
    return {name: torch.zeros(()) if _is_counter(name) else stored[name].float() for name in layout}


def _stored(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the file, bare or under `state_dict`, without `module.` and the segmentation head."""
    if not path.is_file():
        raise NndiffError(
            "MedicalNet's weights are missing.", where=path, remedy="pass the path of resnet_50.pth with --weights"
        )
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise any exception
        found = str(error).partition("\n")[0][:120]
        raise NndiffError(
            "The file of weights cannot be read.", found=found, where=path, remedy="download it again"
        ) from None
    if isinstance(contents, dict):
        contents = contents.get("state_dict", contents)
    if not isinstance(contents, dict) or not all(isinstance(value, Tensor) for value in contents.values()):
        raise _of_another_layout(path, "a dictionary of tensors, or one under 'state_dict'", type(contents).__name__)
    bare = {str(name).removeprefix("module."): tensor for name, tensor in contents.items()}
    return {name: tensor for name, tensor in bare.items() if not name.startswith("conv_seg.")}


def _is_counter(name: str) -> bool:
    """Return whether this is batch normalisation's count of batches, which older files lack and nothing here uses."""
    return name.endswith(".num_batches_tracked")


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))


def _of_another_layout(path: Path, expected: str, found: str) -> NndiffError:
    return NndiffError(
        "The file does not contain the weights of MedicalNet's ResNet-50.",
        expected=expected,
        found=found,
        where=path,
        remedy="pass resnet_50.pth or resnet_50_23dataset.pth as released by MedicalNet",
    )


def _tensor(volume: FloatArray) -> Tensor:
    """Return a volume as a tensor, and refuse one that is too small.  [Z, Y, X] → [1, 1, Z, Y, X]."""
    if volume.ndim != 3 or min(volume.shape) < SMALLEST_AXIS:
        expected = f"[Z, Y, X] with at least {SMALLEST_AXIS} voxels along each axis"
        raise NndiffError(
            "Features cannot be computed for an array of this shape.", expected=expected, found=list(volume.shape)
        )
    return torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]


def _array(features: Tensor) -> Floats:
    """Return features as a float64 array.  [1, D] → [D]."""
    array: Floats = features[0].double().cpu().numpy()
    return array


EXTRACTORS: Registry[Callable[..., Extractor]] = Registry("extractor", {"random": Random, "medicalnet": MedicalNet})
