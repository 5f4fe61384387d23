"""The building blocks of the UNet: convolution, normalisation, time embedding, residual block and upsampling.

    block(x₁, …, t) = Σ shortcutᵢ(xᵢ) + W'·SiLU((1 + scale(t))·GN(Σ Wᵢ·SiLU(GN(xᵢ))) + shift(t))

No weight of a block begins at zero: networks whose blocks did learned more slowly (documentation/LOG.md).

Norm, activation and convolution form one unit (`NormConv`), because that is also the unit of recomputation: the
backward pass of the convolution needs the output of the activation, and the norm and the activation are cheap to
compute twice (lean.py). The norm keeps the dtype of its input: under autocast PyTorch's own GroupNorm converts a bf16
volume to fp32, which doubles the memory of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nndiff.networks.lean import LAST, computed_in_fp32_on_a_cpu, norm_silu, recalled
from nndiff.words.volume import Triple

MAX_GROUPS = 32  # as in Wu & He 2018
CHANNELS_A_GROUP = 4  # the fewest channels per group
TIME_SCALE = 1000.0  # maps t in [0, 1] to the 1000 steps for which the frequencies of the embedding were designed
MAX_PERIOD = 10000.0

LANES = 8  # the fewest output channels that oneDNN computes

Zeroed = TypeVar("Zeroed", bound=nn.Conv3d | nn.Linear)
Begun = tuple[Tensor, Tensor]  # (output of the first convolution, shortcut) of one part of a residual block's input


def groups(channels: int) -> int:
    """Return the largest divisor of `channels` that is at most 32 and gives at least four channels per group."""
    most = max(1, min(MAX_GROUPS, channels // CHANNELS_A_GROUP))
    return next(n for n in range(most, 0, -1) if channels % n == 0)


class Conv(nn.Conv3d):
    """A 3D convolution whose output is always channels last, with three special cases on a CPU.

    For small fp32 maps on a CPU, PyTorch falls back on a kernel whose output is not channels last. One such output
    would change the memory layout of all maps after it, and every later convolution would have to copy its input.

    1. A bf16 volume with fewer slices than the kernel is convolved in fp32, because oneDNN (3.12) leaves part of the
       gradient of such a kernel uninitialised (1e30 or NaN).
    2. Without gradients, a single fp32 volume is passed to oneDNN directly, which is 2 to 10 times faster. PyTorch
       itself uses oneDNN only for larger maps or batches.
    3. oneDNN computes eight output channels even where one is requested. Where the kernel's taps along x fit into
       these channels, they are computed as such (`_by_taps`), which is twice as fast, its gradients included.
    """

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:  # [B, C, Z, Y, X] → [B, C', Z', Y', X']
        """Return the convolution; with film = (scale, shift), [1, 2C'], (1 + scale) times it, plus shift.

        Both are applied to the weights: the unscaled maps are never computed.
        """
        weight, bias = self.weight, self.bias
        if film is not None:
            assert bias is not None
            assert x.shape[0] == 1, tuple(x.shape)
            scale, shift = film[0].float().chunk(2)
            weight, bias = (1 + scale)[:, None, None, None, None] * weight, (1 + scale) * bias + shift
        taps, alone = self.kernel_size[2], self.stride == (1, 1, 1)
        if x.device.type == "cpu" and x.shape[2] < self.kernel_size[0]:
            return self._in_fp32(x, weight, bias)
        if x.device.type == "cpu" and alone and 1 < taps <= LANES // self.out_channels:
            return self._by_taps(x, weight, bias)
        return self._convolved(x, weight, bias, self.padding).contiguous(memory_format=LAST)

    def _by_taps(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution as y(x) = Σ_k W_k x(x + k).

        A kernel one voxel wide along x computes one channel per tap; each channel is then shifted to its place. They
        are added in fp32.
        """
        assert bias is not None
        (pz, py, px), size, outputs = (int(p) for p in self.padding), x.shape[4], self.out_channels
        weight = weight.movedim(4, 0).flatten(0, 1)[..., None]  # [taps · C', C, k_z, k_y, 1]
        computed = self._convolved(x, weight, None, (pz, py, 0))
        taps, out = F.pad(computed, (px, px)).float(), bias[:, None, None, None]
        for k in range(self.kernel_size[2]):
            out = out + taps[:, k * outputs : (k + 1) * outputs, ..., k : k + size]
        return out.to(computed.dtype).contiguous(memory_format=LAST)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: str | tuple[int, ...]) -> Tensor:
        if self._held_back(x):
            held: Tensor = torch.ops.aten.mkldnn_convolution(
                x, weight, bias, padding, self.stride, self.dilation, self.groups
            )
            return held
        return F.conv3d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _held_back(self, x: Tensor) -> bool:
        """Return whether oneDNN can convolve x although PyTorch may not use it.

        It is False for subclasses of Tensor, such as the tensors without storage of a memory trace.
        """
        alone = x.shape[0] == 1 and type(x) is Tensor and not torch.is_grad_enabled()
        return alone and computed_in_fp32_on_a_cpu(x) and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

    def _in_fp32(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        with torch.autocast("cpu", enabled=False):
            out = F.conv3d(x.float(), weight, bias, self.stride, self.padding, self.dilation, self.groups).to(dtype)
        return out.contiguous(memory_format=LAST)


def conv(c_in: int, c_out: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> Conv:
    """Return a convolution, padded so that an axis of n voxels keeps n/stride (rounded up)."""
    return Conv(c_in, c_out, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))


def zeroed(layer: Zeroed) -> Zeroed:
    """Return the layer with zero weights, so that its output is zero before training."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def recomputed(run: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """Return run(*inputs), and keep only the inputs for the backward pass.

    The random state is not restored for the second run, because no layer here draws random numbers.
    """
    if not torch.is_grad_enabled():
        return run(*inputs)
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]


class GroupNorm(nn.Module):
    """The weights of a group normalisation; lean.norm_silu computes it, in the dtype of its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.groups = groups(channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))


class TimeEmbedding(nn.Module):
    """The embedding of t: (cos ω·t, sin ω·t) at geometrically spaced ω, followed by a two-layer network."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.frequencies = width // 2
        self.mlp = nn.Sequential(nn.Linear(2 * self.frequencies, out), nn.SiLU(), nn.Linear(out, out), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:  # [B] → [B, out]
        exponent = torch.arange(self.frequencies, device=t.device, dtype=torch.float32) / self.frequencies
        angle = TIME_SCALE * t.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponent)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1))  # type: ignore[no-any-return]


class NormConv(nn.Module):
    """GroupNorm, scale and shift from the time embedding (optional), SiLU, convolution.

    With `recompute`, the input of the convolution is computed again in the backward pass.
    """

    def __init__(self, c_in: int, c_out: int, kernel: Triple, recompute: bool, zero: bool = False):
        super().__init__()
        self.norm = GroupNorm(c_in)
        self.conv = zeroed(conv(c_in, c_out, kernel)) if zero else conv(c_in, c_out, kernel)
        self.recompute = recompute

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:  # [B, C, Z, Y, X], [B, 2C]
        norm = self.norm
        if self.recompute:
            return recalled(self.conv, x, norm.weight, norm.bias, norm.groups, film)
        return self.conv(norm_silu(x, norm.weight, norm.bias, norm.groups, film))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """A residual block whose input comes in parts, each with its own norm, first convolution and shortcut.

    The parts are therefore never concatenated, and the result of one part can be kept while another part changes: the
    block is finish(begin(0, x₁), begin(1, x₂), …).
    """

    def __init__(self, c_in: tuple[int, ...], c_out: int, c_time: int, kernel: Triple, recompute: str):
        super().__init__()
        norms, alone = recompute == "norms", c_in == (c_out,)
        self.first = nn.ModuleList(NormConv(c, c_out, kernel, norms) for c in c_in)
        self.shortcut = nn.ModuleList(nn.Identity() if alone else conv(c, c_out, (1, 1, 1)) for c in c_in)
        self.film = nn.Linear(c_time, 2 * c_out)
        self.second = NormConv(c_out, c_out, kernel, norms)
        self.recompute = recompute == "blocks"

    def forward(self, time: Tensor, *parts: Tensor) -> Tensor:  # [B, c_time], [B, c_in, Z, Y, X]s → [B, c_out, Z, Y, X]
        return recomputed(self._run, time, *parts) if self.recompute else self._run(time, *parts)

    def _run(self, time: Tensor, *parts: Tensor) -> Tensor:
        return self.finish(time, *(self.begin(i, part) for i, part in enumerate(parts)))

    def begin(self, i: int, part: Tensor) -> Begun:
        return self.first[i](part), self.shortcut[i](part)

    def finish(self, time: Tensor, *begun: Begun) -> Tensor:
        *others, (h, x) = begun
        for h_i, x_i in others:  # in place: with several parts h and x are new tensors that nothing else uses
            h, x = h.add_(h_i), x.add_(x_i)
        return x + self.second(h, self.film(time))  # type: ignore[no-any-return]


class Up(nn.Module):
    """Upsampling: a convolution that changes the channels, then each voxel repeated `stride` times along each axis.

    The work is 1/∏stride of that of the opposite order.
    """

    def __init__(self, c_in: int, c_out: int, stride: Triple):
        super().__init__()
        self.conv = conv(c_in, c_out, (1, 1, 1))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:  # [B, C, Z, Y, X] → [B, C', Z·s_z, Y·s_y, X·s_x]
        return repeat(self.conv(x), self.stride)


def repeat(x: Tensor, stride: Triple) -> Tensor:
    """Return x enlarged by nearest neighbours, channels last on every device; it takes a view and one copy."""
    b, c, z, y, w = x.shape
    (sz, sy, sx), rows = stride, x.movedim(1, -1)  # [B, Z, Y, X, C]
    rows = rows[:, :, None, :, None, :, None].expand(b, z, sz, y, sy, w, sx, c)
    return rows.reshape(b, z * sz, y * sy, w * sx, c).movedim(-1, 1)
