"""The cost of a step on kept features relative to a whole step: FLOPs by tracing, seconds measured side by side.

    python -m benchmarks.reuse [--device cuda] [--width 32] [--size 48]

Full and shallow steps alternate; the ratio is the median of their ratios. The network is as planned: three levels, two
blocks per level on each side, and with the puzzle a light head at full resolution, which every step computes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from nndiff.assemble import autocast, build_network
from nndiff.families.unet import UNetSpec
from nndiff.networks.unet import Cache
from nndiff.plans.plan import Workload
from nndiff.resources.memory import shallow_share
from nndiff.words.volume import Triple

REPEATS = 9
CASES: tuple[tuple[Triple, int], ...] = (((1, 1, 1), 1), ((1, 1, 1), 2), ((2, 2, 2), 1), ((2, 2, 2), 2))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--size", type=int, default=48, help="voxels along each axis of the tile")
    arguments = parser.parse_args(argv)
    print("| puzzle | depth | FLOPs of a shallow step | seconds | of a whole step, s |\n|---|---|---|---|---|")
    for puzzle, depth in CASES:
        print("| " + " | ".join(_measured(arguments, puzzle, depth)) + " |", flush=True)
    return 0


def _measured(arguments: argparse.Namespace, puzzle: Triple, depth: int) -> list[str]:
    pooled = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    head = 16 if puzzle != (1, 1, 1) else 0
    spec = UNetSpec(
        in_channels=2,
        out_channels=1,
        width=arguments.width,
        multipliers=(1, 2, 4),
        kernels=((3, 3, 3),) * 3,
        strides=pooled,
        blocks=2,
        head_width=head,
        recompute="none",
    )
    tile = (arguments.size,) * 3
    work = shallow_share(Workload(spec, puzzle, tile, 1, arguments.precision, arguments.device), depth)
    device = torch.device(arguments.device)
    network = build_network(spec, puzzle).to(device).eval()
    x, t = torch.randn(1, 1, *tile, device=device), torch.rand(1, device=device)
    cache = Cache(depth)

    def full() -> None:
        cache.stale = True
        network(x, t, x, cache)

    def shallow() -> None:
        network(x, t, x, cache)

    with torch.no_grad(), autocast(device.type, arguments.precision):
        full()
        shallow()
        pairs = [(_seconds(full, device), _seconds(shallow, device)) for _ in range(REPEATS)]
    share, whole = median(b / a for a, b in pairs), median(a for a, _ in pairs)
    return ["x".join(map(str, puzzle)), str(depth), f"{work:.2f}", f"{share:.2f}", f"{whole:.3f}"]


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - clock


if __name__ == "__main__":
    sys.exit(main())
