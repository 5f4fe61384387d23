"""Check the integrity of raw cases: open every file once and report all problems.

Geometry may differ between the files of a case by SPACING_TOLERANCE (relative) and, at the corners, by
POSITION_TOLERANCE of the smallest voxel edge (`volume.py`). Between cases spacing, shape and orientation may differ.

The volumes are passed on to the fingerprint, so that no file is opened twice.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nndiff.imaging import io
from nndiff.imaging.register import shared
from nndiff.words.dataset import Case, Dataset, Finding
from nndiff.words.errors import NndiffError
from nndiff.words.kind import kind_of
from nndiff.words.volume import FloatArray, Mask, Volume

FLOAT32_EXACT = 2**24  # larger whole numbers lose their last digit in float32
STRANGER = 0.4  # of the median: real PET/CT, heads and simulated PET all have at least 0.47, swapped pairs have 0.2
MEASURE = "normalised mutual information minus 1"
ALL_STRANGERS = 0.05  # real PET with a tenth of the counts and its full counts have 0.2, of other patients 0.03
LOOKED_AT = 200_000  # voxels
SHOWN = 0.1  # share of a plane that a body fills at least; a couch fills less
OTHER_UNITS = 50.0  # factor between the P99 of a case and the median P99: beyond it, other units are suspected


@dataclass(frozen=True)
class Content:
    """Digests of a case's voxels, from which duplicates are found."""

    source: str
    target: str


@dataclass(frozen=True, eq=False)
class Examined:
    """One case after its files were opened: the volumes if it has no errors, and the findings."""

    source: Volume | None
    target: Volume | None
    mask: Volume | None
    findings: tuple[Finding, ...]
    content: Content | None  # None: the case has errors

    @property
    def sound(self) -> bool:
        return all(finding.severity != "error" for finding in self.findings)


def examine(case: Case, dataset: Dataset, verify: bool = True) -> Examined:
    """Return a case with its volumes and findings.

    Unreadable files, differing grids and NaN in images are always reported, other problems only with `verify`.
    """
    findings: list[Finding] = []
    volumes = {path: _read(case, path, findings) for path in case.files}
    reference = next((volume for volume in volumes.values() if volume is not None), None)
    for path, volume in volumes.items():
        if volume is not None and reference is not None and volume is not reference:
            findings += _geometry(case, path, reference, volume)
    for path, volume in volumes.items():
        if volume is None:
            continue
        array = volume.array[0]  # [Z, Y, X]
        if path == case.mask:
            findings += _mask(case, path, array) if verify else ()
        elif not np.isfinite(array).all():
            findings.append(_not_finite(case, path, volume))
        elif verify:
            findings += _intensities(case, path, array, dataset)
    findings += _roles(case) if verify else ()
    if any(finding.severity == "error" for finding in findings):
        return Examined(source=None, target=None, mask=None, findings=tuple(findings), content=None)
    source, target = (_stack([volumes[path] for path in paths]) for paths in (case.source, case.target))
    mask = volumes[case.mask] if case.mask else None
    return Examined(
        source=source,
        target=target,
        mask=mask,
        findings=tuple(findings),
        content=Content(_digest(source), _digest(target)),
    )


def across_cases(contents: Mapping[str, Content], groups: Mapping[str, str]) -> list[Finding]:
    """Return a finding for each case that repeats the voxels of another one (`contents`: case → digests).

    The same target in two groups leaks from training into validation, whatever its source, and is an error. Within one
    group, only a case with the same source and target is reported, as a warning.
    """
    same = defaultdict(list)
    for case, content in sorted(contents.items()):
        same[content.target].append(case)
    findings = []
    for first, *others in same.values():
        for other in others:
            whole = contents[first] == contents[other]
            what = (
                f"{'source and target are' if whole else 'the target is'} identical to case {first}, voxel for voxel."
            )
            if groups[first] != groups[other]:
                remedy = 'give both cases the same patient under "groups" in dataset.json, or remove one of them'
                findings.append(Finding(other, "", what, remedy))
            elif whole:
                findings.append(Finding(other, "", what, "remove one of the two cases", severity="warning"))
    return findings


def other_units(bright: Mapping[str, Sequence[float]], names: Sequence[str]) -> list[Finding]:
    """Return a warning for each channel whose P99 is far from that of the other cases, e.g. Bq/ml among SUV.

    `bright` maps a case to the P99 of its channels.
    """
    findings = []
    for channel, name in enumerate(names):
        values = {case: rows[channel] for case, rows in bright.items() if rows[channel] > 0}
        middle = float(np.median(list(values.values()))) if len(values) > 2 else 0.0
        for case, value in sorted(values.items()):
            if middle > 0 and not 1 / OTHER_UNITS < value / middle < OTHER_UNITS:
                what = (
                    f"{name}: the P99 is {value:.4g}, but about {middle:.4g} in the other cases; the units may differ."
                )
                findings.append(Finding(case, "", what, "convert all cases to the same units", severity="warning"))
    return findings


def strangers(shares: Mapping[str, Sequence[float]], pairs: Sequence[str]) -> list[Finding]:
    """Return warnings about cases whose source and target have unusually little mutual information.

    A case is compared with the median over all cases; if both channels have one name, the median itself is checked.
    `shares` maps a case to the result of `tells`, one number per pair of channels.
    """
    findings = []
    for index, pair in enumerate(pairs):
        values = {case: rows[index] for case, rows in shares.items()}
        middle = float(np.median(list(values.values()))) if len(values) > 3 else 0.0
        source, _, target = pair.partition(" and ")
        if source == target and 0 < middle < ALL_STRANGERS:
            what = f"{pair}: {MEASURE} is only about {middle:.3f} in all cases, low for images of the same kind."
            findings.append(
                Finding("", "", what, "check that each source is paired with its own target", severity="warning")
            )
        for case, value in sorted(values.items()):
            if value < STRANGER * middle:
                what = f"{pair}: {MEASURE} is {value:.3f}, but about {middle:.3f} in the other cases."
                remedy = (
                    "check that both show the same patient in the same position; nndiff_convert --register aligns them"
                )
                findings.append(Finding(case, "", what, remedy, severity="warning"))
    return findings


def tells(source: Volume | None, target: Volume) -> list[float]:
    """Return the normalised mutual information - 1 of each pair of channels: 0 for unrelated images."""
    if source is None:
        return []
    step = target.array[0].size // LOOKED_AT | 1  # odd: a multiple of an even row length would sample one column only
    first, second = (volume.array.reshape(volume.channels, -1)[:, ::step] for volume in (source, target))
    return [shared(a, b) - 1 for b in second for a in first]


def uncovered(
    case: str, channels: Sequence[FloatArray], inside: Sequence[Mask], names: Sequence[str]
) -> Iterator[Finding]:
    """Yield a warning for each channel that is constant in a plane at an end of the volume although others show a body.

    It is the fill value of an image that was resampled onto a larger grid. `inside` holds the foreground of each
    channel, [Z, Y, X].
    """
    for index, name in enumerate(names):
        places = []
        for axis, letter in enumerate("zyx"):
            for end, step in (("first", 1), ("last", -1)):
                filled = [_filled(np.moveaxis(array, axis, 0)[::step]) for array in channels]
                bodies = [np.moveaxis(body, axis, 0)[::step] for body in inside]  # [planes, …]
                shown = (body[n : filled[index]] for body, n in zip(bodies, filled, strict=True))
                if any((planes.mean(axis=(1, 2)) > SHOWN).any() for planes in shown):
                    places.append(f"the {end} {filled[index]} along {letter}")
        if places:
            what = f"{name} has a single value in planes where another image shows the body: {', '.join(places)}."
            remedy = "cut these planes off all images of the case, or resample them without filling"
            yield Finding(case, "", what, remedy, severity="warning")


def _filled(planes: FloatArray) -> int:
    """Return the number of planes at the beginning that hold a single value each."""
    return next((k for k, plane in enumerate(planes) if plane.min() < plane.max()), 0)


# ---------------------------------------------------------------- one file


def _read(case: Case, path: Path, findings: list[Finding]) -> Volume | None:
    try:
        return io.read([path])
    except NndiffError as error:
        details = [
            f"{word} {value}"
            for word, value in (("expected", error.expected), ("found", error.found))
            if value is not None
        ]
        what = error.what + (f" ({'; '.join(details)})" if details else "")
        findings.append(Finding(case.name, str(path), what, error.remedy or "replace the file"))
        return None


def _geometry(case: Case, path: Path, reference: Volume, volume: Volume) -> Iterable[Finding]:
    difference = reference.grid.difference(volume.grid)
    if difference is not None:
        what = f"the voxel grid differs from that of the case's first file: {difference}."
        yield Finding(
            case.name, str(path), what, "resample one onto the other, or register them: nndiff_convert --register"
        )


def _not_finite(case: Case, path: Path, volume: Volume) -> Finding:
    bad = ~np.isfinite(volume.array[0])  # [Z, Y, X]
    x, y, z = volume.grid.position(tuple(np.argwhere(bad)[0]))
    what = (
        f"{int(bad.sum())} of {bad.size} voxels are NaN or infinite, the first at {x:.1f}, {y:.1f}, {z:.1f} mm (LPS)."
    )
    return Finding(case.name, str(path), what, "replace these values in the file; nndiff does not guess them")


def _intensities(case: Case, path: Path, array: FloatArray, dataset: Dataset) -> Iterable[Finding]:
    low, high = float(array.min()), float(array.max())
    if low == high:
        yield Finding(
            case.name, str(path), f"all voxels have the value {low:g}.", "remove the case: an empty scan cannot be used"
        )
        return
    yield from _integer_limits(case, path, array)
    kind = kind_of(_channel_name(case, path, dataset))
    if kind.lowest is not None and low > kind.lowest.doubtful:
        what = f"the channel is named {kind.title}, but its lowest value is {low:g}; {kind.lowest.because}."
        remedy = f"convert the values to {kind.units} (rescale slope and intercept), or rename the channel"
        yield Finding(case.name, str(path), what, remedy, severity="warning")


def _integer_limits(case: Case, path: Path, array: FloatArray) -> Iterable[Finding]:
    """Yield findings about integers that overflow.

    A 16-bit scan with values at the limits of its type was clipped or wrapped around; 32-bit values may exceed what
    float32 represents exactly.
    """
    kind = io.read_header(path).pixel_type
    if "integer" not in kind:
        return
    largest = float(np.abs(array).max())
    if largest >= FLOAT32_EXACT:
        yield Finding(
            case.name,
            str(path),
            f"float32 cannot hold integers up to {largest:.0f} exactly.",
            "rescale the values and store them again",
        )
    limits = {"16-bit signed integer": (-32768.0, 32767.0), "16-bit unsigned integer": (None, 65535.0)}.get(kind)
    if limits is None:
        return
    count = int(sum((array == limit).sum() for limit in limits if limit is not None))
    if count:
        what = f"{count} of {array.size} voxels are at the limit of {kind}: the values overflowed or were clipped."
        yield Finding(
            case.name, str(path), what, "export the scan again with a wider type or a rescale slope", severity="warning"
        )
    if limits[0] is None and float((array > 60000).mean()) > 0.01 and float((array < 5000).mean()) > 0.01:
        what = "many unsigned values are just below 65536: negative numbers have wrapped around."
        yield Finding(case.name, str(path), what, "store the scan as signed integers or floats")


def _mask(case: Case, path: Path, array: FloatArray) -> Iterable[Finding]:
    if not np.isfinite(array).all() or not (array > 0.5).any():
        yield Finding(
            case.name,
            str(path),
            "the mask is empty, or has values that are NaN or infinite.",
            "draw the mask again, or remove the file",
        )
    elif len(np.unique(array)) > 2:
        yield Finding(
            case.name,
            str(path),
            "the mask has more than two values; voxels above 0.5 count as inside.",
            "store a mask of 0 and 1",
            severity="warning",
        )


def _roles(case: Case) -> Iterable[Finding]:
    files = [path.resolve() for path in (*case.source, *case.target)]
    for path in sorted({path for path in files if files.count(path) > 1}):
        yield Finding(
            case.name,
            str(path),
            "the same file is listed for two channels of this case.",
            'correct the case under "dataset" in dataset.json',
        )


def _channel_name(case: Case, path: Path, dataset: Dataset) -> str:
    if path in case.source:
        return dataset.channel_names[case.source.index(path)]
    return dataset.target_names[case.target.index(path)]


def _stack(volumes: Sequence[Volume | None]) -> Volume | None:
    whole = [volume for volume in volumes if volume is not None]
    if not whole:
        return None
    return Volume(np.concatenate([volume.array for volume in whole]), whole[0].grid, whole[0].layout)


def _digest(volume: Volume | None) -> str:
    if volume is None:
        return ""
    return hashlib.blake2b(np.ascontiguousarray(volume.array).data, digest_size=16).hexdigest()
