"""What the UNet is made of.

    block(x₁, …, t) = Σ shortcutᵢ(xᵢ) + W'·SiLU((1 + scale(t))·GN(Σ Wᵢ·SiLU(GN(xᵢ))) + shift(t))     W' = 0 at the start

Norm, activation and convolution are one unit (`NormConv`), because that is also the unit of recomputation: the
convolution's backward needs the activation's output, and the two maps before it are cheap to do twice.
GroupNorm stays in the tensor's dtype: under autocast PyTorch's own would turn a bf16 volume into an fp32 one, which
doubles a step's memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from nndiff.words.volume import Triple

MAX_GROUPS = 32  # as in Wu & He 2018
CHANNELS_A_GROUP = 4  # at least
TIME_SCALE = 1000.0  # t in [0, 1] → the 1000 steps for which the embedding's frequencies were made
MAX_PERIOD = 10000.0

LAST = torch.channels_last_3d
LANES = 8  # output channels that oneDNN computes at least

Begun = tuple[Tensor, Tensor]  # of one part: on its way through the block, and its shortcut


def groups(channels: int) -> int:
    """The largest divisor of `channels` that is at most 32 and leaves four channels a group."""
    most = max(1, min(MAX_GROUPS, channels // CHANNELS_A_GROUP))
    return next(n for n in range(most, 0, -1) if channels % n == 0)


class Conv(nn.Conv3d):
    """Answers channels last, even where a small fp32 map on a CPU makes PyTorch fall back on a kernel that does not.

    One such answer would turn the layout of all that follows, and every convolution would copy its input back.

    On a CPU a bf16 volume with fewer slices than the kernel is convolved in fp32: oneDNN (3.12) leaves part of such a
    kernel's gradient as it found that memory, 1e30 or NaN. And without gradients a single fp32 volume goes straight to
    oneDNN, which PyTorch itself only does for larger maps or batches: 2 to 10 times faster. And it computes eight
    output channels where one is asked for: the taps along x take those places (`_by_taps`), 1.5 times faster.
    """

    def forward(self, x: Tensor) -> Tensor:  # [B, C, Z, Y, X] → [B, C', Z', Y', X']
        if x.device.type == "cpu" and x.shape[2] < self.kernel_size[0]:
            return self._in_fp32(x)
        taps = self.kernel_size[2]
        if _plain(x) and taps > 1 and taps * self.out_channels <= LANES and self.stride == (1, 1, 1):
            return self._by_taps(x)
        return self._convolved(x, self.weight, self.bias, self.padding).contiguous(memory_format=LAST)

    def _by_taps(self, x: Tensor) -> Tensor:
        """y(x) = Σ_k W_k x(x + k): a channel a tap, by a kernel one voxel wide, each then moved to its place."""
        assert self.bias is not None
        (pz, py, px), size, outputs = (int(p) for p in self.padding), x.shape[4], self.out_channels
        weight = self.weight.movedim(4, 0).flatten(0, 1)[..., None]  # [taps · C', C, k_z, k_y, 1]
        taps = F.pad(self._convolved(x, weight, None, (pz, py, 0)), (px, px))
        out = self.bias[:, None, None, None]
        for k in range(self.kernel_size[2]):
            out = out + taps[:, k * outputs : (k + 1) * outputs, ..., k : k + size]
        return out.contiguous(memory_format=LAST)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: str | tuple[int, ...]) -> Tensor:
        if self._held_back(x):
            held: Tensor = torch.ops.aten.mkldnn_convolution(
                x, weight, bias, padding, self.stride, self.dilation, self.groups
            )
            return held
        return F.conv3d(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _held_back(self, x: Tensor) -> bool:
        """Whether PyTorch would not ask oneDNN though it could; tensors without storage (a trace) stay as they are."""
        alone = x.shape[0] == 1 and type(x) is Tensor and not torch.is_grad_enabled()
        return alone and _plain(x) and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]

    def _in_fp32(self, x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        with torch.autocast("cpu", enabled=False):
            out = super().forward(x.float()).to(dtype)
        return out.contiguous(memory_format=LAST)


def _plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def conv(c_in: int, c_out: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> Conv:
    """A convolution that keeps n/stride voxels of every n."""
    return Conv(c_in, c_out, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))


def zeroed(layer: Conv) -> Conv:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def recomputed(run: Callable[..., Tensor], *inputs: Tensor | None) -> Tensor:
    """run(*inputs), keeping only the inputs for the backward pass; nothing here draws random numbers."""
    if not torch.is_grad_enabled():
        return run(*inputs)
    return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]


class GroupNorm(nn.Module):
    """Where all before it is frozen its input's gradient is still asked for, and dropped: PyTorch's (2.13) backward of
    a channels-last volume on a CPU writes it whether or not there is memory for it, and dies.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.groups = groups(channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, Z, Y, X]
        if torch.is_grad_enabled() and self.weight.requires_grad and not x.requires_grad:
            x = x.detach().requires_grad_()
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype))


class TimeEmbedding(nn.Module):
    """t → (cos ω·t, sin ω·t) at geometrically spaced ω → a two-layer network."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.frequencies = width // 2
        self.mlp = nn.Sequential(nn.Linear(2 * self.frequencies, out), nn.SiLU(), nn.Linear(out, out), nn.SiLU())

    def forward(self, t: Tensor) -> Tensor:  # [B] → [B, out]
        exponent = torch.arange(self.frequencies, device=t.device, dtype=torch.float32) / self.frequencies
        angle = TIME_SCALE * t.float()[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponent)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=1))  # type: ignore[no-any-return]


class NormConv(nn.Module):
    """GroupNorm, the time's scale and shift if any, SiLU, convolution; `recompute` does all but the convolution twice.

    The second time stops before the convolution: all that the backward pass asks for is there by then.
    """

    def __init__(self, c_in: int, c_out: int, kernel: Triple, recompute: bool, zero: bool = False):
        super().__init__()
        self.norm = GroupNorm(c_in)
        self.conv = zeroed(conv(c_in, c_out, kernel)) if zero else conv(c_in, c_out, kernel)
        self.recompute = recompute

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:  # [B, C, Z, Y, X], [B, 2C]
        return recomputed(self._run, x, film) if self.recompute else self._run(x, film)

    def _run(self, x: Tensor, film: Tensor | None) -> Tensor:
        h = self.norm(x)
        if film is not None:
            scale, shift = film.to(h.dtype)[..., None, None, None].chunk(2, dim=1)  # [B, C, 1, 1, 1] each
            h = torch.addcmul(shift, h, 1 + scale)
        return self.conv(F.silu(h))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Takes its input in parts, each with a norm, a convolution and a shortcut of its own.

    So nothing is concatenated, and what one part gives can be kept while another changes: the block is
    finish(begin(0, x₁), begin(1, x₂), …).
    """

    def __init__(self, c_in: tuple[int, ...], c_out: int, c_time: int, kernel: Triple, recompute: str):
        super().__init__()
        norms, alone = recompute == "norms", c_in == (c_out,)
        self.first = nn.ModuleList(NormConv(c, c_out, kernel, norms) for c in c_in)
        self.shortcut = nn.ModuleList(nn.Identity() if alone else conv(c, c_out, (1, 1, 1)) for c in c_in)
        self.film = nn.Linear(c_time, 2 * c_out)
        self.second = NormConv(c_out, c_out, kernel, norms, zero=True)
        self.recompute = recompute == "blocks"

    def forward(self, time: Tensor, *parts: Tensor) -> Tensor:  # [B, c_time], [B, c_in, Z, Y, X]s → [B, c_out, Z, Y, X]
        return recomputed(self._run, time, *parts) if self.recompute else self._run(time, *parts)

    def _run(self, time: Tensor, *parts: Tensor) -> Tensor:
        return self.finish(time, *(self.begin(i, part) for i, part in enumerate(parts)))

    def begin(self, i: int, part: Tensor) -> Begun:
        return self.first[i](part), self.shortcut[i](part)

    def finish(self, time: Tensor, *begun: Begun) -> Tensor:
        *others, (h, x) = begun
        for h_i, x_i in others:  # in place: what was just computed is nobody else's
            h, x = h.add_(h_i), x.add_(x_i)
        return x + self.second(h, self.film(time))  # type: ignore[no-any-return]


class Up(nn.Module):
    """Channels first, then each voxel repeated `stride` times an axis: 1/∏stride of the work of the other order."""

    def __init__(self, c_in: int, c_out: int, stride: Triple):
        super().__init__()
        self.conv = conv(c_in, c_out, (1, 1, 1))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:  # [B, C, Z, Y, X] → [B, C', Z·s_z, Y·s_y, X·s_x]
        return repeat(self.conv(x), self.stride)


def repeat(x: Tensor, stride: Triple) -> Tensor:
    """Nearest-neighbour enlargement by a view and one copy, channels last whatever the device."""
    b, c, z, y, w = x.shape
    (sz, sy, sx), rows = stride, x.movedim(1, -1)  # [B, Z, Y, X, C]
    rows = rows[:, :, None, :, None, :, None].expand(b, z, sz, y, sy, w, sx, c)
    return rows.reshape(b, z * sz, y * sy, w * sx, c).movedim(-1, 1)
