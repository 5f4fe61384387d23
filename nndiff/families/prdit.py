"""The PRDiT family: a local denoiser and a global residual transformer over tokens, and a ladder of sizes for it.

A token predicts a block of 2, 4, 8 or 16 voxels of the finest spacing per axis. The ladder takes the finest block that
gives no more tokens than a device of this class should attend to; then it tries widths and depths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from nndiff.families.family import FAMILIES, Channels, Explain, NetworkSpec, Rung
from nndiff.families.search import about_batches
from nndiff.families.sizes import coarsened, patches
from nndiff.words.errors import NndiffError
from nndiff.words.fields import at_least, one_of
from nndiff.words.verdict import Verdict, in_words
from nndiff.words.volume import Spacing, Triple

if TYPE_CHECKING:
    from torch import Tensor, nn

BLOCKS = (2, 4, 8, 16)  # voxels of the finest spacing; published: 8, for volumes of 128 voxels per axis
MOST_TOKENS = {"cuda": 4096, "mps": 2048, "cpu": 1024}  # published: 4096
LARGEST_TILED = {"cuda": 8, "mps": 4, "cpu": 4}  # largest block where the volume may be cut instead; published: 8
TOO_MANY = 32_768  # tokens from which attention, whose work grows with their square, takes nearly all of a step
VARIANTS = {  # (width, depth), best first; published: 768 and 12, 1152 and up to 28
    "cuda": ((768, 12), (512, 8), (384, 8), (256, 6), (128, 4)),
    "mps": ((384, 8), (256, 6), (128, 4)),
    "cpu": ((192, 6), (128, 4), (96, 4), (64, 3)),
}
ESTIMATES = 2  # answers per target of a network with a prior: the image and the noise
BATCHES = {"cuda": (8, 4, 2, 1), "mps": (2, 1), "cpu": (4, 2, 1)}
READ = ("core.whole.embedding.0.weight", "core.whole.beside.weight")  # weights applied to the voxels of tokens
WRITTEN = ("core.whole.head.weight", "core.whole.head.bias")  # weights that produce the voxels of blocks


@dataclass(frozen=True)
class TokenRung(Rung):
    """A size of a transformer over tokens: adds its depth and the block of voxels that each token predicts."""

    depth: int
    block: Triple

    power: ClassVar[int] = 2  # the work of attention grows with the square of the number of tokens
    slow_alone: ClassVar[bool] = False

    @property
    def shape_of_work(self) -> tuple[Any, ...]:
        return self.puzzle_factor, self.width, self.depth, self.block

    def __str__(self) -> str:
        again = "" if self.recompute == "none" else f", {self.recompute} computed twice"
        size = f"patch {in_words(self.patch_size)} in blocks of {in_words(self.block)}, batch {self.batch_size}"
        return f"{size}, width {self.width}, depth {self.depth}{again}"


@FAMILIES.row
@dataclass(frozen=True, kw_only=True)
class PRDiTSpec(NetworkSpec):
    """A local denoiser and a transformer over overlapping tokens."""

    name = "prdit"
    keeps_patch = True  # the number of tokens and their positions must be those of training

    token: Triple  # voxels that a token sees
    block: Triple  # voxels that a token predicts
    depth: Annotated[int, at_least(0, 1000)]  # transformer blocks; 0: the local denoiser alone
    recompute: Annotated[str, one_of("none", "blocks")]
    bounded: bool = False  # normalised branches, queries and keys; a denoiser of voxels; False: in older plans
    prior_shape: Triple | None = None  # voxels of the prior's spectrum and mean; None: no prior, in older plans
    anchors: tuple[int, ...] = ()  # per target, the channel of the condition that the prior follows; (): none

    @property
    def has_prior(self) -> bool:
        return self.prior_shape is not None

    # ------------------------------------------------------------ size

    @classmethod
    def ladder(cls, shape: Triple, spacing: Spacing, tiled: bool, device: str) -> Iterator[TokenRung]:
        """Yield the sizes of the whole volume, then of smaller patches (tiled) or of coarser spacings (not tiled)."""
        if tiled:
            sizes = [(patch, spacing) for patch in patches(shape, spacing)]
        else:
            sizes = [(shape, spacing), *coarsened(shape, spacing)]
        for patch, grain in sizes:
            block = finest_block(patch, grain, MOST_TOKENS[device], LARGEST_TILED[device] if tiled else max(BLOCKS))
            if block is None:
                continue
            for width, depth in VARIANTS[device]:
                for batch in BATCHES[device]:
                    for recompute in ("none", "blocks"):
                        yield TokenRung(
                            puzzle_factor=(1, 1, 1),
                            patch_size=patch,
                            spacing=grain,
                            batch_size=batch,
                            width=width,
                            recompute=recompute,
                            depth=depth,
                            block=block,
                        )

    @classmethod
    def on(cls, rung: Rung, channels: Channels) -> PRDiTSpec:
        assert isinstance(rung, TokenRung)
        return cls(
            in_channels=channels.inputs,
            out_channels=channels.outputs,
            width=rung.width,
            token=token_of(rung.block),
            block=rung.block,
            depth=rung.depth,
            recompute=rung.recompute,
            answers=channels.answers,
            bounded=True,
            prior_shape=rung.patch_size if channels.answers == ESTIMATES else None,
            anchors=channels.anchors,
            sources=channels.sources,
        )

    def reasons(self, rung: Rung, whole: Triple, device: str, fits: str, verdict: Explain) -> dict[str, Verdict[Any]]:
        assert isinstance(rung, TokenRung)
        tokens, seen = count(rung.patch_size, rung.block), in_words(token_of(rung.block))
        is_whole = rung.patch_size == whole
        again = "blocks" if rung.recompute == "none" else "none"
        doubled = tuple(2 * b for b in rung.block)
        return {
            "puzzle_factor": verdict(rung.puzzle_factor, f"no puzzle, because the tokens group the voxels; {fits}"),
            "patch_size": verdict(
                rung.patch_size, "the whole volume" if is_whole else "the largest part of the volume within both limits"
            ),
            "batch_size": verdict(
                rung.batch_size,
                about_batches(device),
                (2 * rung.batch_size, {"batch_size": 2 * rung.batch_size}),
            ),
            "network": verdict(
                self,
                f"{tokens} tokens; each predicts a block of {in_words(rung.block)} voxels from the {seen} that it "
                f"sees: the finest block that gives at most {MOST_TOKENS[device]} tokens; width {rung.width}, depth "
                f"{rung.depth} and recompute {rung.recompute} are the best combination that fits",
                (f"blocks of {in_words(doubled)}", {"block": doubled}),
                (f"recompute {again}", {"recompute": again}),
            ),
        }

    def demand_size(self, shape: Triple) -> None:
        found = count(shape, self.block)
        if found > TOO_MANY:
            raise NndiffError(
                "The volume has too many tokens for a transformer.",
                expected=f"at most {TOO_MANY} tokens",
                found=f"{found}: {in_words(shape)} voxels in blocks of {in_words(self.block)}",
                remedy="plan larger blocks (--set configurations.NAME.network.block=…, and token) or a coarser spacing",
            )

    # ------------------------------------------------------------ network

    def build(self, puzzle_factor: Triple) -> nn.Module:
        import torch

        from nndiff.networks.prdit import PRDiT
        from nndiff.networks.prior import Prior
        from nndiff.networks.puzzle import Puzzled

        self.demand_sources()
        pieces = math.prod(puzzle_factor)
        known = self.targets if self.has_prior else 0  # the core sees the prior's estimate too
        inputs, outputs = (self.in_channels + known) * pieces, self.out_channels * pieces
        core = PRDiT(
            in_channels=inputs,
            out_channels=outputs,
            width=self.width,
            depth=self.depth,
            patch=self.token,
            stride=self.block,
            recompute=self.recompute,
            bounded=self.bounded,
            known=known * pieces,
        )
        prior = None if self.prior_shape is None else Prior(self.targets, self.prior_shape, self.anchors)
        network = Puzzled(core, puzzle_factor, self.multiple(puzzle_factor), None, prior=prior, spreads=self.sources)
        return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]

    def multiple(self, puzzle_factor: Triple) -> Triple:
        z, y, x = (r * b for r, b in zip(puzzle_factor, self.block, strict=True))
        return z, y, x

    def local_mean_kernel(self, puzzle_factor: Triple) -> Triple:
        """Return the size of a token, but 3 along every puzzled axis."""
        z, y, x = (3 if r > 1 else k for k, r in zip(self.token, puzzle_factor, strict=True))
        return z, y, x

    def signs(self, network: nn.Module, x_t: Tensor, t: Tensor) -> dict[str, float]:
        from nndiff.networks.prdit import PRDiT

        core = network.core
        assert isinstance(core, PRDiT)
        return {} if core.whole is None or not core.whole.speaks else core.whole.signs(lambda: network(x_t, t))

    # ------------------------------------------------------------ from coarse to fine

    def inherit(self, own: Mapping[str, Tensor], other: NetworkSpec, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `own` with its transformer's weights replaced by those of a coarser network, where they fit.

        The finer network has the same number of tokens at the same positions, so the transformer's weights fit
        unchanged. Only the weights that read or write voxels must grow. With f voxels in the place of one, along every
        axis,

            weights that read a token    W(c, f·i + k) = W(c, i) / f    the mean over each f voxels is read
            weights that write a block   W(c, f·i + k) = W(c, i)        an output is repeated f times

        The local denoiser sees every voxel and is trained from the start. The prior is measured anew.
        """
        if self.is_like(other):
            return dict(theirs)
        factor = self._factor(other)
        assert isinstance(other, PRDiTSpec)
        found = dict(own)
        for name in found:
            if name.startswith("core.whole.") and name in theirs:
                spread = self._spread(name, theirs[name], other, factor)
                if spread.shape == found[name].shape:
                    found[name] = spread
        return found

    def _factor(self, other: NetworkSpec) -> Triple:
        alike = ("in_channels", "out_channels", "width", "depth", "answers", "bounded", "has_prior", "anchors")
        if not isinstance(other, PRDiTSpec) or any(getattr(self, name) != getattr(other, name) for name in alike):
            raise self.cannot_begin_with(other, alike)
        pairs = list(zip(self.block, other.block, strict=True))
        if any(fine % coarse for fine, coarse in pairs):
            raise NndiffError(
                "The blocks of the coarser network must divide the blocks of this network.",
                expected=f"divisors of {self.block}",
                found=other.block,
                remedy="plan both configurations together (-c prdit_lowres prdit)",
            )
        z, y, x = (fine // coarse for fine, coarse in pairs)
        return z, y, x

    def _spread(self, name: str, value: Tensor, other: PRDiTSpec, factor: Triple) -> Tensor:
        if name in READ:
            rows = value.reshape(len(value), -1, *other.token)  # the prior's estimate is a channel too
            return _centred(_repeated(rows, factor), self.token).flatten(1) / math.prod(factor)
        if name in WRITTEN:
            columns = value.reshape(len(value), -1).T  # [width or 1, block]
            columns = columns.reshape(len(columns), other.out_channels, *other.block)
            return _repeated(columns, factor).flatten(1).T.reshape(-1, *value.shape[1:])
        return value


# ---------------------------------------------------------------- tokens


def finest_block(shape: Triple, spacing: Spacing, most: int, largest: int) -> Triple | None:
    blocks = (block_of(size, spacing) for size in BLOCKS if size <= largest)
    return next((block for block in blocks if count(shape, block) <= most), None)


def block_of(size: int, spacing: Spacing) -> Triple:
    """Return a block with about the same length in mm along every axis; each axis has a power of two of voxels."""
    z, y, x = (max(1, 2 ** round(math.log2(size * min(spacing) / s))) for s in spacing)
    return z, y, x


def count(shape: Triple, block: Triple) -> int:
    return math.prod(-(-n // b) for n, b in zip(shape, block, strict=True))


def token_of(block: Triple) -> Triple:
    """Return the size of the token around a block: a quarter more on every side, as published (12 around 8)."""
    z, y, x = (b + 2 * max(1, b // 4) if b > 1 else b for b in block)
    return z, y, x


def halved(rung: Rung) -> TokenRung:
    """Return the rung with the same tokens at half the resolution, along every axis whose block can be halved."""
    assert isinstance(rung, TokenRung)
    axes = [2 if b > 1 else 1 for b in rung.block]
    pz, py, px = (-(-n // a) for n, a in zip(rung.patch_size, axes, strict=True))
    bz, by, bx = (b // a for b, a in zip(rung.block, axes, strict=True))
    sz, sy, sx = (s * a for s, a in zip(rung.spacing, axes, strict=True))
    return replace(rung, patch_size=(pz, py, px), block=(bz, by, bx), spacing=(sz, sy, sx))


def _centred(rows: Tensor, patch: Triple) -> Tensor:
    """Return the rows cropped, or padded with zeros, to the token's size around their centre."""
    before = [(p - n) // 2 for p, n in zip(patch, rows.shape[2:], strict=True)]
    z, y, x = ((b, p - n - b) for b, p, n in zip(before, patch, rows.shape[2:], strict=True))
    from torch.nn import functional as F

    return F.pad(rows, (*x, *y, *z))


def _repeated(rows: Tensor, factor: Triple) -> Tensor:  # [n, C, z, y, x] → [n, C, z·f_z, y·f_y, x·f_x]
    for axis, f in zip((2, 3, 4), factor, strict=True):
        rows = rows.repeat_interleave(f, axis)
    return rows
