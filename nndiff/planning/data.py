"""Rules about the data: anchor, normalisation, crop, range, spacing, shape. Each takes facts and returns a Verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nndiff.data.prepare import CROP_MARGIN_MM, normalizer
from nndiff.imaging.resample import new_shape
from nndiff.plans.channels import TIED, Channel, Crop
from nndiff.words.fingerprint import CaseFingerprint, ChannelStatistics, Curve, Fingerprint
from nndiff.words.kind import Kind, kind_of
from nndiff.words.scheme import Scheme
from nndiff.words.spread import Spread
from nndiff.words.verdict import Alternative, Verdict
from nndiff.words.volume import FloatArray, Floats, Grid, Spacing, Triple

CROP_WORTH = 0.8  # crop if the median case keeps at most this share of its voxels
FINER_AT_MOST = 4.0  # the most voxels at the finer spacing, as a multiple of those at the median spacing
RANGE_MARGIN = 0.1  # share of the range added on either side: a new case may exceed all training cases a little

Map = Callable[[float], float]


def anchors(fingerprint: Fingerprint) -> Verdict[tuple[int, ...]]:
    """Return, for each target channel, the source channel that a bridge starts from.

    It is the source of the same name, else the one with the highest correlation.
    """
    if not fingerprint.channel_names:
        return Verdict((), "generation has no source to start from")
    chosen, reasons = [], []
    for t, name in enumerate(fingerprint.target_names):
        correlations = [
            float(np.median([abs(case.links[t][s].correlation) for case in fingerprint.cases]))
            for s in range(len(fingerprint.channel_names))
        ]
        same = [s for s, source in enumerate(fingerprint.channel_names) if source == name]
        s = same[0] if same else int(np.argmax(correlations))
        why = "the same name" if same else "the highest correlation" if len(correlations) > 1 else "the only source"
        chosen.append(s)
        reasons.append(f"{name} starts from {fingerprint.channel_names[s]}: {why} (|r| = {correlations[s]:.2f})")
    return Verdict(tuple(chosen), "; ".join(reasons))


def source_channel(name: str) -> Verdict[Channel]:
    kind = kind_of(name)
    return Verdict(Channel(name, kind, kind.source, kind.background), f"{kind.meaning}: {kind.source_reason}")


def target_channel(
    t: int, fingerprint: Fingerprint, anchor: Channel | None, anchor_index: int | None
) -> Verdict[Channel]:
    """Return a target channel whose normalisation does not depend on the target.

    It is fixed for CT; otherwise it is that of the anchor ("tied"), or one for the whole dataset. A source divided by
    its own peak has lost its absolute scale, and the network sees nothing else. The normalisation is therefore chosen
    that leaves less of the target unexplained by the normalised source.
    """
    name = fingerprint.target_names[t]
    kind = kind_of(name)
    window = kind.window_of(fingerprint.task)
    if window is not None:
        low, high = window.options["low"], window.options["high"]
        reason = f"{kind.meaning}: [{low:g}, {high:g}] for every case, undone exactly; values outside are not clipped"
        return Verdict(Channel(name, kind, window, kind.background), reason)
    fixed = _dataset_map(kind, fingerprint.pooled_target[t])
    if anchor is None or anchor_index is None:
        reason = "generation: one normalisation for the whole dataset"
        return Verdict(Channel(name, kind, fixed, kind.background), reason)
    source = [case.source[anchor_index] for case in fingerprint.cases]
    target = [case.target[t] for case in fingerprint.cases]
    source_maps = [scheme_map(anchor.normalization, statistics) for statistics in source]
    one_map = [scheme_map(fixed, None)] * len(target)
    tied = _Candidate(
        Scheme(TIED, {}),
        TIED,
        f"tied to its anchor {anchor.name}",
        _unexplained(source, source_maps, target, source_maps),
    )
    shared = _Candidate(
        fixed,
        "dataset",
        "one normalisation for the dataset",
        _unexplained(source, source_maps, target, one_map),
    )
    best, other = (tied, shared) if tied.unexplained < shared.unexplained else (shared, tied)
    reason = f"{best.words}: the normalised source does not explain {best.unexplained:.3f} of the target's range"
    alternative = Alternative(other.name, f"{other.words}: {other.unexplained:.3f} would be unexplained")
    return Verdict(Channel(name, kind, best.scheme, kind.background), reason, (alternative,))


@dataclass(frozen=True)
class _Candidate:
    """A normalisation of a target channel, and the share of the target's range that it leaves unexplained."""

    scheme: Scheme
    name: str
    words: str
    unexplained: float


def crop(fingerprint: Fingerprint) -> Verdict[Crop]:
    kept = float(np.median([math.prod(case.cropped_shape) / math.prod(case.shape) for case in fingerprint.cases]))
    enabled = kept <= CROP_WORTH
    side = "source" if fingerprint.channel_names else "target"
    reason = (
        f"the bounding box of the body in the {side}, {CROP_MARGIN_MM:g} mm wider, keeps {kept:.0%} of the voxels of "
        f"the median case{'' if enabled else f'; above {CROP_WORTH:.0%}, a crop is not worth its risk'}"
    )
    return Verdict(Crop(enabled, CROP_MARGIN_MM), reason)


def target_range(
    fingerprint: Fingerprint, sources: Sequence[Channel], targets: Sequence[Channel], anchor: Sequence[int]
) -> Verdict[tuple[tuple[float, float], ...]]:
    """Return the range to which the sampler clamps its estimate: that of the normalised training targets, widened.

    It is not widened beyond the physically lowest value of a modality, which is left to the targets that pass it.
    """
    ranges, floors = [], dict[str, None]()
    for t, channel in enumerate(targets):
        maps = [_map_of(channel, case, sources, anchor[t] if anchor else None) for case in fingerprint.cases]
        low = min(m(case.target[t].minimum) for m, case in zip(maps, fingerprint.cases, strict=True))
        high = max(m(case.target[t].maximum) for m, case in zip(maps, fingerprint.cases, strict=True))
        margin = RANGE_MARGIN * (high - low)
        lowest = low - margin
        if channel.kind.floor is not None:
            lowest = max(lowest, min(low, *(m(channel.kind.floor) for m in maps)))
            floors[f"{channel.kind.floor:g} {channel.kind.units}"] = None
        ranges.append((_rounded(lowest), _rounded(high + margin)))
    but = f", but not beyond {' and '.join(floors)}, below which nothing is physical" if floors else ""
    reason = (
        f"the range of the normalised training targets, {RANGE_MARGIN:.0%} wider at each end{but}; "
        "estimates are clamped to it"
    )
    return Verdict(tuple(ranges), reason)


def normalised_rmse(
    fingerprint: Fingerprint, sources: Sequence[Channel], targets: Sequence[Channel], anchor: Sequence[int]
) -> list[float]:
    """Return, per case, the rms of (anchor - target) over target channels, normalised as planned.

    It is computed from the moments in the fingerprint.
    """
    per_case = []
    for case in fingerprint.cases:
        squares = []
        for t, channel in enumerate(targets):
            s = anchor[t]
            link = case.links[t][s]
            source_map, target_map = (
                scheme_map(sources[s].normalization, case.source[s]),
                _map_of(channel, case, sources, s),
            )
            source_slope, target_slope = source_map(1.0) - source_map(0.0), target_map(1.0) - target_map(0.0)
            gap = source_map(link.source_mean) - target_map(link.target_mean)
            sy, sx = source_slope * link.source_std, target_slope * link.target_std
            squares.append(gap**2 + sy**2 + sx**2 - 2 * link.correlation * sy * sx)
        per_case.append(math.sqrt(max(0.0, float(np.mean(squares)))))
    return per_case


def open_part(
    fingerprint: Fingerprint, sources: Sequence[Channel], targets: Sequence[Channel], anchor: Sequence[int]
) -> list[float] | None:
    """Return, per case, the rms of what the sources leave open over target channels, normalised as planned.

    It is None where the fingerprint contains no estimate.
    """
    missed = _normalised([case.open_rms for case in fingerprint.cases], fingerprint, sources, targets, anchor)
    return None if missed is None else [math.sqrt(float(np.mean(np.square(case)))) for case in missed]


def grain(
    fingerprint: Fingerprint, sources: Sequence[Channel], targets: Sequence[Channel], anchor: Sequence[int]
) -> float | None:
    """Return the rms of the finest texture of the target, normalised as planned: of its faintest channel, as a median.

    It is None where the fingerprint contains no estimate.
    """
    grains = _normalised([case.grain for case in fingerprint.cases], fingerprint, sources, targets, anchor)
    return None if grains is None else float(np.median([min(case) for case in grains]))


def spreads(fingerprint: Fingerprint, sources: Sequence[Channel]) -> tuple[Spread, ...] | None:
    """Return mean and std of each source over the boxes around all bodies, normalised as planned.

    It is None where the fingerprint contains no estimate.
    """
    found = []
    for s, channel in enumerate(sources):
        of_cases = []
        for case in fingerprint.cases:
            if case.moments is None:
                return None
            m, (mean, std) = scheme_map(channel.normalization, case.source[s]), case.moments[s]
            of_cases.append((m(mean), std * (m(1.0) - m(0.0))))
        means, stds = np.array(of_cases).T
        std = float(np.sqrt(np.mean(stds**2) + np.var(means)))
        found.append(Spread(_rounded(float(np.mean(means))), _rounded(std) if std > 0 else 1.0))
    return tuple(found)


def _normalised(
    sizes: Sequence[tuple[float, ...] | None],
    fingerprint: Fingerprint,
    sources: Sequence[Channel],
    targets: Sequence[Channel],
    anchor: Sequence[int],
) -> list[list[float]] | None:
    """Return sizes in the file's units, per case and target channel, normalised as planned; None if one is missing."""
    per_case = []
    for case, own in zip(fingerprint.cases, sizes, strict=True):
        if own is None:
            return None
        maps = [_map_of(channel, case, sources, anchor[t]) for t, channel in enumerate(targets)]
        per_case.append([(m(1.0) - m(0.0)) * size for m, size in zip(maps, own, strict=True)])
    return per_case


def open_curve(fingerprint: Fingerprint, sources: Sequence[Channel], anchor: Sequence[int]) -> tuple[Curve, ...]:
    """Return, per target channel, the open part over the local mean of its anchor, normalised as planned."""
    if not fingerprint.open_curves:
        return ()
    return tuple(
        tuple((_level(level, fingerprint, sources[s], s), share) for level, share in fingerprint.open_curves[t][s])
        for t, s in enumerate(anchor)
    )


def _level(level: float, fingerprint: Fingerprint, source: Channel, s: int) -> float:
    """Return the planned normalisation of a level that is normalised by the default of its kind; median over cases."""
    default, planned = source.kind.source, source.normalization
    if planned == default:
        return level
    values = []
    for case in fingerprint.cases:
        m, other = scheme_map(default, case.source[s]), scheme_map(planned, case.source[s])
        values.append(other((level - m(0.0)) / (m(1.0) - m(0.0))))
    return _rounded(float(np.median(values)))


def spacing(fingerprint: Fingerprint) -> Verdict[Spacing]:
    """Return the spacing: for translation the tenth percentile per axis, if that is affordable, else the median.

    A prediction must keep the detail of its source. Resampling to a finer spacing and back preserves a volume;
    resampling to a coarser one loses detail for good.
    """
    spacings = np.array([case.spacing for case in fingerprint.cases])
    median = _triple(np.median(spacings, axis=0))
    fine = _triple(np.percentile(spacings, 10, axis=0, method="lower"))
    growth = math.prod(median) / math.prod(fine)
    if fingerprint.task == "translation" and growth <= FINER_AT_MOST:
        chosen, other = (
            fine,
            Alternative(
                median, f"the median would lose detail in {_share(spacings, median, finer=True):.0%} of the cases"
            ),
        )
        cost = f"; it has {growth:.2g} times the voxels of the median" if growth > 1.01 else ""
        reason = f"the finer tenth percentile per axis, so that resampling back loses no detail{cost}"
    else:
        chosen, other = (
            median,
            Alternative(fine, f"the finer tenth percentile would give {growth:.2g} times the voxels"),
        )
        reason = "the median per axis"
    reason += f"; {_share(spacings, chosen):.0%} of the cases have this spacing and are not resampled"
    return Verdict(chosen, reason, (other,) if other.value != chosen else ())


def _share(spacings: Floats, of: Spacing, finer: bool = False) -> float:
    """Return the share of the cases with this spacing; or, if `finer`, of those that are finer along some axis."""
    rows = (
        np.any(spacings < 0.99 * np.array(of), axis=1) if finer else np.all(np.isclose(spacings, of, rtol=1e-3), axis=1)
    )
    return float(np.mean(rows))


def _triple(values: Floats) -> Spacing:
    a, b, c = (float(f"{value:.6g}") for value in values)
    return a, b, c


def volume_shape(fingerprint: Fingerprint, crop: Crop, spacing: Spacing) -> Verdict[Triple]:
    """Return the shape of the median case after crop and resampling.

    In generation it is the one shape of all volumes: the 95th percentile per axis.
    """
    shapes = np.array([_prepared_shape(case, crop, spacing) for case in fingerprint.cases])
    if fingerprint.task == "generation":
        z, y, x = (int(v) for v in np.percentile(shapes, 95, axis=0, method="lower"))
        whole = float(np.mean(np.all(shapes <= (z, y, x), axis=1)))
        return Verdict(
            (z, y, x), f"one shape for all: {whole:.0%} of the cases fit completely, larger ones are cut at the edges"
        )
    z, y, x = (int(v) for v in np.median(shapes, axis=0))
    return Verdict((z, y, x), "the shape of the median case after cropping and resampling")


def scheme_map(scheme: Scheme, statistics: ChannelStatistics | None) -> Map:
    """Return the affine map of a normalisation scheme for a case, fitted to the statistics of the channel."""
    portrait = np.zeros(1, dtype=np.float32) if statistics is None else _portrait(statistics)
    fitted = normalizer(scheme).fit(portrait.reshape(-1, 1, 1), np.ones((portrait.size, 1, 1), dtype=bool))
    return lambda value: (value - fitted.offset) / fitted.scale


def _portrait(statistics: ChannelStatistics) -> FloatArray:
    """Return sorted values that have the percentiles of the channel, to which a normaliser can be fitted."""
    knots = {float(p): value for p, value in statistics.percentiles.items()}
    knots |= {0.0: statistics.minimum, 99.99: max(statistics.peak, *knots.values()), 100.0: statistics.maximum}
    points = sorted(knots)
    return np.interp(np.linspace(0, 100, 20_001), points, [knots[p] for p in points]).astype(np.float32)


def _map_of(channel: Channel, case: CaseFingerprint, sources: Sequence[Channel], anchor: int | None) -> Map:
    if channel.normalization.name == TIED:
        assert anchor is not None
        return scheme_map(sources[anchor].normalization, case.source[anchor])
    return scheme_map(channel.normalization, None)


def _unexplained(
    source: Sequence[ChannelStatistics],
    source_maps: Sequence[Map],
    target: Sequence[ChannelStatistics],
    target_maps: Sequence[Map],
) -> float:
    """Return how poorly the normalised target percentiles follow from those of the normalised source.

    The fit is x_p = k·y_p + c_p over all cases, with one slope for P50, P95 and P99. The result is its rms residual
    divided by the mean width of the target.
    """
    y, x = (
        np.array([[m(case.percentiles[p]) for p in ("50", "95", "99")] for case, m in zip(cases, maps, strict=True)])
        for cases, maps in ((source, source_maps), (target, target_maps))
    )
    y, x = y - y.mean(axis=0), x - x.mean(axis=0)
    power = float((y**2).sum())
    slope = float((x * y).sum()) / power if power > 0 else 0.0
    widths = [
        m(case.percentiles["99.5"]) - m(case.percentiles["0.5"]) for case, m in zip(target, target_maps, strict=True)
    ]
    return float(np.sqrt(np.mean((x - slope * y) ** 2)) / max(float(np.mean(widths)), 1e-12))


def _dataset_map(kind: Kind, pooled: ChannelStatistics) -> Scheme:
    if kind.true_zero:
        return Scheme("fixed", {"low": 0.0, "high": pooled.peak, "onto_low": 0.0, "onto_high": 1.0})
    return Scheme("fixed", {"low": pooled.percentiles["0.5"], "high": pooled.percentiles["99.5"]})


def _prepared_shape(case: CaseFingerprint, crop: Crop, spacing: Spacing) -> Triple:
    shape = case.cropped_shape if crop.enabled else case.shape
    return new_shape(Grid(shape, case.spacing, (0.0, 0.0, 0.0)), spacing)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
