"""PRDiT: a local denoiser and a global residual transformer over overlapping patches; no autoencoder, no pooling.

    token_n = the patch around block n of the volume        output(block n) = local(token_n, t) + whole(all tokens, t)_n

Blocks tile the volume. A token is a block and a margin on every side, mirrored at the border of the volume. For each
block the local part sees only the token of that block. The global part ("whole") starts at exactly zero, so a network
of which only the local part was trained returns the output of the local part. While the global part is frozen at zero,
it is not run at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nndiff.networks.blocks import TimeEmbedding, conv, recomputed, zeroed
from nndiff.words.errors import NndiffError
from nndiff.words.volume import Triple

HEAD_SIZE = 64  # the fewest channels per attention head, where the width has as many; published: 768/12 and 1152/16
HIGHEST = 32.0  # half turns of the fastest position code over a whole axis, in a network without bounds
LOGIT = 8.0  # the largest |q·k| of an attention head: sqrt(64), that of vectors of unit variance
RMS_EPSILON = 1e-6  # added to a mean square; a vector below 1e-3 shrinks instead of growing to unit variance
EMBEDDING_RATIO, BLOCK_RATIO = 4, 4  # hidden width / outer width in the MLP of the embedding and of a block
GRAIN = 8  # channels of the convolution over voxels
WIDEST = 2048  # the most hidden channels of a gated MLP, and numbers of a token with first estimates; published: 1728
SILENT = 1e-2  # largest |activation| of a dead channel; GELU is below it for inputs under -3
RECOMPUTE = ("none", "blocks")


def unfold(x: Tensor, patch: Triple, stride: Triple) -> Tensor:  # [B, C, Z, Y, X] → [B, gz, gy, gx, C·pz·py·px]
    """Return the tokens: the patch around every block of `stride` voxels."""
    mz, my, mx = ((p - s) // 2 for p, s in zip(patch, stride, strict=True))
    x = F.pad(x, (mx, mx, my, my, mz, mz), mode="reflect")
    for axis, (p, s) in enumerate(zip(patch, stride, strict=True), start=2):
        x = x.unfold(axis, p, s)  # [B, C, gz, gy, gx, pz, py, px]
    return x.permute(0, 2, 3, 4, 1, 5, 6, 7).flatten(4)


def fold(blocks: Tensor, stride: Triple) -> Tensor:  # [B, gz, gy, gx, C·sz·sy·sx] → [B, C, Z, Y, X]
    (b, gz, gy, gx, _), (sz, sy, sx) = blocks.shape, stride
    pieces = blocks.reshape(b, gz, gy, gx, -1, sz, sy, sx).permute(0, 4, 1, 5, 2, 6, 3, 7)
    volume = pieces.reshape(b, -1, gz * sz, gy * sy, gx * sx)
    return volume.contiguous(memory_format=torch.channels_last_3d)


def positions(
    grid: Triple, width: int, device: torch.device, highest: float | None = None
) -> Tensor:  # [gz, gy, gx, width]
    """Return the position codes: sines and cosines of each block's position, which is between 0 and 1 along each axis.

    Along an axis of n blocks the waves make from half a turn to `highest` half turns; None: n, the Nyquist frequency.
    Grids of equally many blocks have the same codes, however large the blocks are.
    """
    waves = width // 6
    share = torch.arange(waves, device=device) / max(1, waves - 1)
    codes = []
    for axis, n in enumerate(grid):
        turns = torch.exp(math.log(highest or n) * share) * math.pi
        angle = ((torch.arange(n, device=device) + 0.5) / n)[:, None] * turns  # [n, waves]
        shape = [n if i == axis else 1 for i in range(3)]
        codes += [wave.reshape(*shape, waves).expand(*grid, waves) for wave in (angle.sin(), angle.cos())]
    return F.pad(torch.cat(codes, dim=-1), (0, width - 6 * waves))


class PRDiT(nn.Module):
    """The sum of the local denoiser and the global transformer; the core of a network, without puzzle and padding.

    The two MLPs of the local part grow with the square of a token. Where tokens are wide, as published, they do not see
    the first estimates; its denoiser of voxels and the transformer always do.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int,  # of the transformer; the local part has the width of a token
        depth: int,  # number of transformer blocks; 0: no global part
        patch: Triple,
        stride: Triple,
        recompute: str = "none",  # what is computed twice to save memory: nothing, or every block
        bounded: bool = True,  # False: without Voxels and without the bounds of Block, as in plans of before
        known: int = 0,  # of the input channels, the last: first estimates, which come from the whole volume
    ):
        super().__init__()
        _check(width, patch, stride, recompute)
        self.patch, self.stride = patch, stride
        token, block = in_channels * math.prod(patch), out_channels * math.prod(stride)
        self.seen = (
            token if token <= WIDEST else token - known * math.prod(patch)
        )  # numbers of a token in the local part
        self.local = Local(self.seen, block, width, min(block if bounded else token, WIDEST), recompute == "blocks")
        kz, ky, kx = (3 if p > s else 1 for p, s in zip(patch, stride, strict=True))
        self.local.voxels = Voxels(in_channels, out_channels, width, (kz, ky, kx)) if bounded else None
        self.whole = Whole(token, block, width, depth, recompute == "blocks", bounded) if depth else None

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # [B, C, Z, Y, X], [B] → [B, out, Z, Y, X]
        tokens = unfold(x, self.patch, self.stride)
        answer = self.local(tokens[..., : self.seen], t)
        if self.whole is not None and self.whole.speaks:
            answer = answer + self.whole(tokens, t)
        folded = fold(answer, self.stride)
        return folded if self.local.voxels is None else folded + self.local.voxels(x, t)


class Local(nn.Module):
    """The local denoiser: two gated residual MLPs, modulated by the time; its output is zero before training.

    To the output of its tokens is added that of `voxels`, which learns from every voxel what tokens learn from each.
    """

    voxels: Voxels | None

    def __init__(self, token: int, block: int, c_time: int, hidden: int, recompute: bool):
        super().__init__()
        self.time = TimeEmbedding(c_time, c_time)
        self.layers = nn.ModuleList(Gated(token, hidden, c_time) for _ in range(2))
        self.film = zeroed(nn.Linear(c_time, 2 * token))
        self.head = zeroed(nn.Linear(token, block))
        self.recompute = recompute

    def forward(self, tokens: Tensor, t: Tensor) -> Tensor:  # [B, gz, gy, gx, token] → [B, gz, gy, gx, block]
        time = self.time(t)
        for layer in self.layers:
            tokens = recomputed(layer, tokens, time) if self.recompute else layer(tokens, time)
        return self.head(_modulated(tokens, self.film(time)))  # type: ignore[no-any-return]


class Voxels(nn.Module):
    """A denoiser of voxels from their 27 neighbours: a convolution and an MLP over its channels, modulated by time.

    Its reach is within the margin of a token: one voxel, or none along axes without a margin. It is as local as the
    rest of the local part.
    """

    def __init__(self, c_in: int, c_out: int, c_time: int, kernel: Triple):
        super().__init__()
        self.time = TimeEmbedding(c_time, c_time)
        self.film = zeroed(nn.Linear(c_time, 2 * GRAIN))
        self.first = conv(c_in, GRAIN, kernel)
        self.second, self.last = nn.Linear(GRAIN, 2 * GRAIN), zeroed(nn.Linear(2 * GRAIN, c_out))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:  # [B, C, Z, Y, X] → [B, out, Z, Y, X]
        rows = self.first(x).movedim(1, -1)  # [B, Z, Y, X, GRAIN], contiguous: the convolution is channels last
        h = F.silu(_modulated(rows, self.film(self.time(t))))
        return self.last(F.silu(self.second(h))).movedim(-1, 1)  # type: ignore[no-any-return]


class Gated(nn.Module):
    """A gated residual MLP: x + W₃(SiLU(W₁n) · W₂n),  n = (1 + scale(t))·LayerNorm(x) + shift(t)"""

    def __init__(self, token: int, hidden: int, c_time: int):
        super().__init__()
        self.norm = Norm(token)
        self.film = zeroed(nn.Linear(c_time, 2 * token))
        self.enter, self.leave = nn.Linear(token, 2 * hidden), nn.Linear(hidden, token)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        gate, value = self.enter(_modulated(self.norm(x), self.film(time))).chunk(2, dim=-1)
        return x + self.leave(F.silu(gate) * value)  # type: ignore[no-any-return]


class Whole(nn.Module):
    """The global transformer over all tokens of the volume; its output is zero before training."""

    def __init__(self, token: int, block: int, width: int, depth: int, recompute: bool, bounded: bool = True):
        super().__init__()
        self.highest = None if bounded else HIGHEST
        hidden = EMBEDDING_RATIO * width
        self.time = TimeEmbedding(width, width)
        self.embedding = nn.Sequential(nn.Linear(token, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.beside = nn.Linear(token, width)
        self.norm = Norm(width, affine=True)
        self.blocks = nn.ModuleList(Block(width, bounded) for _ in range(depth))
        self.last = Norm(width)
        self.film = zeroed(nn.Linear(width, 2 * width))
        self.head = zeroed(nn.Linear(width, block))
        self.recompute = recompute
        self.silent = True
        self.register_load_state_dict_post_hook(Whole._listen)  # type: ignore[no-untyped-call]

    @property
    def speaks(self) -> bool:
        """Return whether the output can differ from zero: a weight is trained, or the loaded head is not zero."""
        return not self.silent or any(weight.requires_grad for weight in self.parameters())

    def _listen(self, _: object) -> None:
        self.silent = not (self.head.weight.any() or self.head.bias.any())

    def forward(self, tokens: Tensor, t: Tensor) -> Tensor:  # [B, gz, gy, gx, token] → [B, gz, gy, gx, block]
        grid, time = (tokens.shape[1], tokens.shape[2], tokens.shape[3]), self.time(t)
        h = self.norm(self.embedding(tokens) + self.beside(tokens))
        h = (h + positions(grid, h.shape[-1], h.device, self.highest).to(h.dtype)).flatten(1, 3)  # [B, N, width]
        for block in self.blocks:
            h = recomputed(block, h, time) if self.recompute else block(h, time)
        return self.head(_modulated(self.last(h), self.film(time))).unflatten(1, grid)  # type: ignore[no-any-return]

    def signs(self, ask: Callable[[], Tensor]) -> dict[str, float]:
        """Return the health of the transformer while `ask` runs it.

        token_spread   rms over the tokens of the channels after the last normalisation
        dead           share of the hidden channels of the MLPs that are zero for every token
        """
        outputs: dict[nn.Module, Tensor] = {}
        watched = [self.last, *(module for module in self.blocks.modules() if isinstance(module, nn.GELU))]
        hooks = [
            module.register_forward_hook(lambda m, _, out: outputs.__setitem__(m, out.detach())) for module in watched
        ]
        try:
            ask()
        finally:
            for hook in hooks:
                hook.remove()
        spread = outputs.pop(self.last).float().flatten(0, -2).var(0, unbiased=False).mean().sqrt()
        hidden = [(values.abs().flatten(0, -2).amax(0) < SILENT).float().mean() for values in outputs.values()]
        return {"token_spread": float(spread), "dead": float(torch.stack(hidden).mean()) if hidden else 0.0}


class Block(nn.Module):
    """A transformer block (adaLN-Zero): attention and an MLP, each normalised, then scaled, shifted and gated by time.

        h ← h + tanh(gate₁)·RMS(attention(n₁(h)))        h ← h + tanh(gate₂)·RMS(mlp(n₂(h)))

    Both gates are zero before training. What a branch adds has unit variance over the channels before its gate, so that
    no branch can drown the others: rms(h) grows by at most 2 per block, at any learning rate. Queries and keys are
    normalised too, so attention cannot become one-hot (Dehghani et al. 2023).
    """

    def __init__(self, width: int, bounded: bool = True):
        super().__init__()
        self.heads, self.bounded = max(1, width // HEAD_SIZE), bounded
        self.first, self.second = Norm(width), Norm(width)
        self.film = zeroed(nn.Linear(width, 6 * width))
        self.enter, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = BLOCK_RATIO * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, h: Tensor, time: Tensor) -> Tensor:  # [B, N, width], [B, width] → [B, N, width]
        width = h.shape[-1]
        film = self.film(time).to(h.dtype)[:, None]
        first, open_first, second, open_second = film.split([2 * width, width, 2 * width, width], dim=-1)
        h = self._added(h, open_first, self._attended(_modulated(self.first(h), first)))
        return self._added(h, open_second, self.mlp(_modulated(self.second(h), second)))

    def _added(self, h: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
        return torch.addcmul(h, gate.tanh(), rms_normed(branch)) if self.bounded else h + gate * branch

    def _attended(self, h: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.enter(h).chunk(3, dim=-1))
        scale = None
        if self.bounded:
            q, k, scale = rms_normed(q), rms_normed(k), LOGIT / q.shape[-1]
        mixed = F.scaled_dot_product_attention(q, k, v, scale=scale)  # fused: its memory is linear in the tokens
        return self.leave(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def rms_normed(x: Tensor) -> Tensor:
    """Return x divided by the rms of its last axis, in the dtype of x."""
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x, x.shape[-1:], eps=RMS_EPSILON)


class Norm(nn.Module):
    """LayerNorm in the dtype of its input: under autocast on a GPU, PyTorch's own converts a bf16 map to fp32."""

    def __init__(self, width: int, affine: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if value is None else value.to(x.dtype) for value in (self.weight, self.bias))
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, x.shape[-1:], weight, bias)


def _modulated(x: Tensor, film: Tensor) -> Tensor:
    """Return (1 + scale)·x + shift, with one scale and shift per volume.  x: [B, …, C]; film: [B, …, 2C]."""
    scale, shift = film.to(x.dtype).reshape(x.shape[0], *[1] * (x.ndim - 2), -1).chunk(2, dim=-1)
    return torch.addcmul(shift, x, 1 + scale)


def _check(width: int, patch: Triple, stride: Triple, recompute: str) -> None:
    margins = [(p - s) / 2 for p, s in zip(patch, stride, strict=True)]
    if any(m < 0 or m != int(m) or m >= s for m, s in zip(margins, stride, strict=True)):
        raise NndiffError(
            "A token must extend its block by the same number of voxels at both ends of each axis.",
            expected="token - block even, and at least 0 and less than 2 * block, along each axis",
            found=f"token {patch}, block {stride}",
            remedy="use token 12 with block 8, token 6 with block 4, or token 4 with block 2",
        )
    if width % max(1, width // HEAD_SIZE) or width < 6:
        raise NndiffError(
            "The width of a transformer must divide evenly among its attention heads.",
            expected=f"a multiple of {HEAD_SIZE}, or less than {2 * HEAD_SIZE}",
            found=width,
        )
    if recompute not in RECOMPUTE:
        raise NndiffError(f"There is no recompute mode '{recompute}'.", expected=" or ".join(RECOMPUTE))
