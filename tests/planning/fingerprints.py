"""Invented fingerprints: seven typical clinical datasets, and random ones for the laws of the planner."""

from __future__ import annotations

from dataclasses import replace

from nndiff.words.budget import Budget
from nndiff.words.fingerprint import CaseFingerprint, ChannelStatistics, Fingerprint, Link
from nndiff.words.kind import kind_of

GB = 10**9

# P0.5, P50, P95, P99, P99.5, largest of a typical case
LEVELS = {
    "pet": (0.05, 0.6, 4.0, 8.0, 10.0, 30.0),
    "ct": (-950.0, 10.0, 300.0, 800.0, 1000.0, 2500.0),
    "mr": (30.0, 300.0, 800.0, 1000.0, 1100.0, 1500.0),
}


def statistics(kind: str, gain: float = 1.0) -> ChannelStatistics:
    low, middle, bright, p99, high, top = (gain * value for value in LEVELS[kind]) if kind != "ct" else LEVELS[kind]
    percentiles = {
        "0.5": low,
        "1": low,
        "5": low,
        "25": middle,
        "50": middle,
        "75": middle,
        "95": bright,
        "99": p99,
        "99.5": high,
    }
    minimum = -1024.0 if kind == "ct" else 0.0
    return ChannelStatistics(minimum, top, 0.8 * top, middle, 0.3 * (high - low), percentiles, 0.4)


def moments_of(found: ChannelStatistics) -> tuple[float, float]:
    """Return mean and std of a channel with its foreground, and all other voxels at its minimum."""
    share, step = found.foreground, found.mean - found.minimum
    return found.minimum + share * step, (share * found.std**2 + share * (1 - share) * step**2) ** 0.5


def link(source: ChannelStatistics, target: ChannelStatistics, rmse: float, noise: float, correlation: float) -> Link:
    return Link(correlation, source.mean, source.std, target.mean, target.std, noise, rmse, 50)


def fingerprint(
    name: str,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    source: tuple[str, ...],
    target: tuple[str, ...],
    kept: float = 1.0,  # share of each axis inside the crop
    cases: int = 5,
    correlation: float = 0.98,
    noise: float = 0.8,
) -> Fingerprint:
    """`cases` alike ones, whose gains differ by a few per cent."""
    cropped = tuple(max(1, round(n * kept)) for n in shape)
    rows = []
    for i in range(cases):
        gain = 1 + 0.02 * i
        sources = tuple(statistics(kind_of(channel).name, gain) for channel in source)
        targets = tuple(statistics(kind_of(channel).name, gain) for channel in target)
        links = tuple(tuple(link(y, x, 0.02, noise, correlation) for y in sources) for x in targets)
        missed, grain = (tuple(share * x.peak for x in targets) if source else None for share in (0.005, 0.002))
        moments = tuple(moments_of(y) for y in sources) if source else None
        name_i, layout = f"case{i}", "LPS"
        row = CaseFingerprint(
            name_i, name_i, shape, spacing, cropped, layout, sources, targets, links, missed, grain, moments
        )
        rows.append(row)
    task = "translation" if source else "generation"
    pooled = rows[cases // 2]
    curves = ((((-1.0, 0.05), (0.0, 0.5), (1.0, 2.0)),) * len(source),) * len(target) if source else ()
    return Fingerprint(name, task, source, target, ".nii.gz", pooled.source, pooled.target, tuple(rows), curves)


GOLDEN = {
    "whole_body_pet": fingerprint("Dataset101_WholeBodyPET", (644, 440, 440), (1.65, 1.65, 1.65), ("PET",), ("PET",), 0.6),
    "brain_mr": fingerprint("Dataset102_BrainMR", (182, 256, 256), (1.0, 1.0, 1.0), ("T1",), ("T2",), 0.98, correlation=0.6, noise=0.1),
    "thick_slice_mr": fingerprint("Dataset103_ThickMR", (28, 448, 448), (5.0, 0.5, 0.5), ("T1",), ("FLAIR",), 0.9, correlation=0.5, noise=0.2),
    "pelvis_cbct_ct": fingerprint("Dataset104_PelvisCBCT", (120, 410, 410), (2.5, 1.0, 1.0), ("CBCT",), ("CT",), 0.9, correlation=0.9, noise=0.4),
    "sarcoma_crop": fingerprint("Dataset105_Sarcoma", (62, 39, 39), (3.27, 4.0, 4.0), ("PET",), ("PET",), cases=36),
    "chest_ct_generation": fingerprint("Dataset106_LIDC", (300, 512, 512), (1.25, 0.7, 0.7), (), ("CT",), 0.9),
    "pet_and_ct": fingerprint("Dataset107_PETCT", (300, 200, 200), (3.0, 2.5, 2.5), ("PET", "CT"), ("PET",), 0.7),
}  # fmt: skip


def budget(gigabytes: float, device: str = "cuda") -> Budget:
    name = {"cuda": "any GPU with bf16", "cpu": "CPU"}[device]
    return Budget(device, name, int(gigabytes * GB), "-gpu_memory_target", True, 8)


def with_spacings(base: Fingerprint, spacings: list[tuple[float, float, float]]) -> Fingerprint:
    cases = tuple(replace(base.cases[i % len(base.cases)], name=f"c{i}", spacing=s) for i, s in enumerate(spacings))
    return replace(base, cases=cases)
