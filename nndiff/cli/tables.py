"""Format a fingerprint as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from nndiff.words.fingerprint import Fingerprint
from nndiff.words.telling import counted
from nndiff.words.text_table import text_table


def fingerprint_table(fingerprint: Fingerprint) -> str:
    cases = fingerprint.cases
    patients = len({case.group for case in cases})
    rows = [
        ("cases", f"{len(cases)}, of {counted(patients, 'patient')}; task {fingerprint.task}"),
        ("spacing", _between([case.spacing for case in cases]) + " mm"),
        ("shape", _between([case.shape for case in cases])),
        ("shape after crop", _between([case.cropped_shape for case in cases])),
    ]
    for side, names, pooled in (
        ("source", fingerprint.channel_names, fingerprint.pooled_source),
        ("target", fingerprint.target_names, fingerprint.pooled_target),
    ):
        for name, row in zip(names, pooled, strict=True):
            levels = (
                f"median {row.percentiles['50']:.4g}, P99.5 {row.percentiles['99.5']:.4g}, largest {row.maximum:.4g}"
            )
            rows.append((f"{side} {name}", levels))
    for t, target in enumerate(fingerprint.target_names if fingerprint.channel_names else ()):
        for s, source in enumerate(fingerprint.channel_names):
            links = [case.links[t][s] for case in cases]
            words = (
                f"|r| {median([abs(link.correlation) for link in links]):.2f}, "
                f"rmse {median([link.rmse for link in links]):.4f} (normalised), "
                f"{median([link.noise_share for link in links]):.0%} noise, "
                f"matched step {median([link.matched_step for link in links]):.0f} of 1000"
            )
            rows.append((f"{source} → {target}", words))
    return text_table(rows)


def _between(triples: Sequence[Sequence[float]]) -> str:
    low, high = ([f(values) for values in zip(*triples, strict=True)] for f in (min, max))
    words = [" x ".join(f"{value:.4g}" for value in row) for row in (low, high)]
    return words[0] if words[0] == words[1] else f"{words[0]} to {words[1]}"
