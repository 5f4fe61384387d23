"""Extract the fingerprint of a raw dataset: spacings, shapes, intensities, and the relation of source and target.

A fingerprint depends only on the data, not on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nndiff.data.integrity import Content, Examined, across_cases, examine, other_units, strangers, tells, uncovered
from nndiff.data.neighbourhood import Sample, sample
from nndiff.data.open_part import OpenPart, open_part, voxels_a_case
from nndiff.data.prepare import CROP_MARGIN_MM, body
from nndiff.data.statistics import channel_statistics, foregrounds, links, moments, samples, statistics, tidy
from nndiff.imaging.io import read_header
from nndiff.resources.outcomes import Failure, demand_success
from nndiff.resources.workers import run
from nndiff.words.crew import Workers
from nndiff.words.dataset import Case, Dataset, Finding
from nndiff.words.errors import NndiffError
from nndiff.words.fingerprint import CaseFingerprint, ChannelStatistics, Curve, Fingerprint
from nndiff.words.kind import Kind, kind_of
from nndiff.words.version import VERSION
from nndiff.words.volume import FloatArray, Mask

BYTES_A_VOXEL = 60  # memory of a case with two files: volumes, masks and temporaries


def extract(dataset: Dataset, workers: Workers = None, verify: bool = True) -> tuple[Fingerprint, list[Finding]]:
    """Return the fingerprint and the warnings; open every file once, and raise all errors together as one report."""
    if not verify:
        dataset.demand_sound()
    findings = list(dataset.findings)
    rows: list[_Row] = []
    failures: list[Failure] = []
    for _, outcome in run(_Task(dataset, verify), dataset.cases, workers, _bytes_a_case(dataset), "Fingerprint"):
        if isinstance(outcome, Failure):
            failures.append(outcome)
        else:
            rows.append(outcome)
    rows.sort(key=lambda row: row.name)
    findings += [finding for row in rows for finding in row.findings]
    if verify:
        contents = {row.name: row.content for row in rows if row.content is not None}
        findings += across_cases(contents, {case.name: case.group for case in dataset.cases})
        for side, names in (("source", dataset.channel_names), ("target", dataset.target_names)):
            bright = {row.name: row.bright(side) for row in rows if row.case is not None}
            findings += other_units(bright, names)
        pairs = [f"{source} and {target}" for target in dataset.target_names for source in dataset.channel_names]
        findings += strangers({row.name: row.shares for row in rows if row.shares}, pairs)
    demand_success(failures, len(dataset.cases), "Fingerprint")
    _demand_sound(dataset, findings)
    return _assembled(dataset, rows), [finding for finding in findings if finding.severity == "warning"]


def report(dataset: Dataset, findings: Sequence[Finding]) -> str:
    """Return a text of all findings, errors first, each with its case, file and remedy."""
    errors = [finding for finding in findings if finding.severity == "error"]
    warnings = [finding for finding in findings if finding.severity != "error"]
    counts = [
        f"{len(group)} {word}{'' if len(group) == 1 else 's'}"
        for word, group in (("error", errors), ("warning", warnings))
    ]
    parts = [f"{' and '.join(counts)} in {dataset.name}"]
    parts += [
        f"{word.upper()}  {finding}" for word, group in (("error", errors), ("warning", warnings)) for finding in group
    ]
    return "\n".join(parts)


# ---------------------------------------------------------------- one case


@dataclass(frozen=True, eq=False)
class _Row:
    """The result of one case, which a worker process returns."""

    name: str
    findings: tuple[Finding, ...]
    content: Content | None
    case: CaseFingerprint | None  # None: the case has errors
    source_samples: FloatArray  # [C, n]
    target_samples: FloatArray
    shares: tuple[float, ...] = ()  # mutual information of each pair of channels, see integrity.tells
    around: Sample | None = None  # for the open part; None: no source

    def bright(self, side: str) -> list[float]:
        assert self.case is not None
        return [row.percentiles["99"] for row in (self.case.source if side == "source" else self.case.target)]


@dataclass(frozen=True)
class _Task:
    """The picklable work on one case: check its integrity, then compute the statistics of its volumes."""

    dataset: Dataset
    verify: bool

    def __call__(self, case: Case) -> _Row:
        examined = examine(case, self.dataset, self.verify)
        nothing = np.zeros((0, 0), dtype=np.float32)
        if not examined.sound:
            return _Row(
                name=case.name,
                findings=examined.findings,
                content=None,
                case=None,
                source_samples=nothing,
                target_samples=nothing,
            )
        source, target = examined.source, examined.target
        assert target is not None
        kinds = (
            [kind_of(name) for name in self.dataset.channel_names],
            [kind_of(name) for name in self.dataset.target_names],
        )
        inside = foregrounds(source, kinds[0]), foregrounds(target, kinds[1])
        fingerprint = self._fingerprint(case, examined, kinds, inside)
        findings = (*examined.findings, *self._uncovered(case, examined, inside)) if self.verify else examined.findings
        shares = tells(source, target) if self.verify else []
        drawn = [samples(volume, masks) for volume, masks in zip((source, target), inside, strict=True)]
        names, count = (self.dataset.channel_names, self.dataset.target_names), voxels_a_case(len(self.dataset.cases))
        return _Row(
            name=case.name,
            findings=findings,
            content=examined.content,
            case=fingerprint,
            source_samples=drawn[0],
            target_samples=drawn[1],
            shares=tuple(shares),
            around=sample(source, target, kinds, names, inside, count) if source is not None else None,
        )

    def _uncovered(self, case: Case, examined: Examined, inside: tuple[list[Mask], list[Mask]]) -> Iterator[Finding]:
        sides = zip(("source", "target"), (examined.source, examined.target), strict=True)
        channels = [channel for _, volume in sides if volume is not None for channel in volume.array]
        names = [f"source {name}" for name in self.dataset.channel_names]
        names += [f"target {name}" for name in self.dataset.target_names]
        return uncovered(case.name, channels, [*inside[0], *inside[1]], names)

    def _fingerprint(
        self,
        case: Case,
        examined: Examined,
        kinds: tuple[list[Kind], list[Kind]],
        inside: tuple[list[Mask], list[Mask]],
    ) -> CaseFingerprint:
        source, target = examined.source, examined.target
        assert target is not None
        reference, reference_kinds = (source, kinds[0]) if source is not None else (target, kinds[1])
        box = body(reference, reference_kinds, CROP_MARGIN_MM)
        return CaseFingerprint(
            name=case.name,
            group=case.group,
            shape=reference.grid.shape,
            spacing=reference.grid.spacing,
            cropped_shape=box.shape,
            layout=read_header((case.source or case.target)[0]).layout,
            source=statistics(source, inside[0]),
            target=statistics(target, inside[1]),
            links=links(source, target, kinds, inside),
            moments=None if source is None else moments(source.array[(slice(None), *box.slices)]),
        )


# ---------------------------------------------------------------- all cases


def _assembled(dataset: Dataset, rows: Sequence[_Row]) -> Fingerprint:
    from nndiff.diffusion.process import noise_matched_step

    cases = []
    opened = _opened(rows)
    all_missed = opened.rms if opened else [None] * len(rows)
    for row, missed in zip(rows, all_missed, strict=True):
        assert row.case is not None
        links = tuple(
            tuple(replace(link, matched_step=noise_matched_step(link.rmse)) for link in target)
            for target in row.case.links
        )
        cases.append(replace(row.case, links=links, open_rms=_tidied(missed), grain=_grain(row.around)))
    return Fingerprint(
        dataset=dataset.name,
        task=dataset.task,
        channel_names=dataset.channel_names,
        target_names=dataset.target_names,
        file_ending=dataset.file_ending,
        pooled_source=_pooled([row.source_samples for row in rows], [case.source for case in cases]),
        pooled_target=_pooled([row.target_samples for row in rows], [case.target for case in cases]),
        cases=tuple(cases),
        open_curves=tuple(tuple(map(_tidied_curve, curves)) for curves in opened.curves) if opened else (),
        versions={"nndiff": VERSION},
    )


def _opened(rows: Sequence[_Row]) -> OpenPart | None:
    around = [row.around for row in rows if row.around is not None]
    groups = [row.case.group for row in rows if row.case is not None]
    return open_part(around, groups) if around else None


def _tidied(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(tidy(value, 4) for value in values)


def _tidied_curve(curve: Curve) -> Curve:
    """Return the curve with few digits; of points that then have one level, the last."""
    return tuple({tidy(level, 4): tidy(share, 3) for level, share in curve}.items())


def _grain(around: Sample | None) -> tuple[float, ...] | None:
    """Return the rms of the finest texture of each target, in the file's units."""
    if around is None:
        return None
    return _tidied(tuple(scale * grain for scale, grain in zip(around.scales, around.grain, strict=True)))


def _pooled(
    samples: Sequence[FloatArray], statistics: Sequence[tuple[ChannelStatistics, ...]]
) -> tuple[ChannelStatistics, ...]:
    """Return the statistics of all cases together, each with equal weight; peak is the median of the cases' peaks."""
    together = np.concatenate(samples, axis=1)  # [C, cases · POOLED_SAMPLES]
    pooled = []
    for channel, values in enumerate(together):
        of_cases = [case[channel] for case in statistics]
        row = channel_statistics(values, values, float(np.mean([case.foreground for case in of_cases])))
        pooled.append(
            replace(
                row,
                minimum=min(case.minimum for case in of_cases),
                maximum=max(case.maximum for case in of_cases),
                peak=tidy(np.median([case.peak for case in of_cases])),
            )
        )
    return tuple(pooled)


def _demand_sound(dataset: Dataset, findings: Sequence[Finding]) -> None:
    if any(finding.severity == "error" for finding in findings):
        raise NndiffError(report(dataset, findings), remedy="correct these problems and run the same command again")


def _bytes_a_case(dataset: Dataset) -> int:
    """Return the memory of the first readable case, from which the number of parallel workers is derived."""
    for case in dataset.cases:
        try:
            shape = read_header(case.files[0]).shape
            return BYTES_A_VOXEL * int(np.prod(shape)) * max(1, len(case.files)) // 2
        except NndiffError:
            continue
    return 1
