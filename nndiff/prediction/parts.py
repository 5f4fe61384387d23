"""Prediction by a cluster: the folder is split into parts, and each part is a prediction of its own on some worker.

A part loads the model once, and takes a GPU where the cluster counts them. How many parts there are depends only on the
number of cases, so that --continue_prediction finds its records with any number of workers. A part whose worker died
begins again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nndiff.prediction.pipeline import concluded, predicted, ready
from nndiff.prediction.reading import decoder
from nndiff.prediction.record import Summary
from nndiff.prediction.request import Request
from nndiff.resources.outcomes import Failure
from nndiff.resources.workers import run
from nndiff.words.crew import Crew
from nndiff.words.errors import NndiffError

LEAST, CASES_A_PART = 8, 8  # parts, and cases a part where there are more: loading a model costs about one case
BYTES_A_PART = 16 << 30


@dataclass(frozen=True)
class _Part:
    name: str
    request: Request


def predict(request: Request) -> Summary:
    """Let the cluster translate every case, and return a summary; raise an error at the end if a case failed."""
    if request.num_parts > 1:
        raise NndiffError(
            "A cluster splits the folder into parts itself.", found="-num_parts", remedy="leave out -num_parts"
        )
    made = ready(replace(request, device="cpu"))  # refuses what cannot be, once; here nothing is computed
    total = made.total
    parts = list(parts_of(request, len(made.found.cases)))
    del made
    records = "predict.json" if len(parts) == 1 else f"predict_part_*_of_{len(parts)}.json"
    summary = Summary(request.output / records)
    for part, outcome in run(_predicted, parts, request.crew, BYTES_A_PART, "Predict", gpu=True):
        if isinstance(outcome, Failure):
            summary.failures.append(replace(outcome, case=part.name))
        else:
            summary.done += outcome.done
            summary.skipped += outcome.skipped
            summary.failures += outcome.failures
            summary.warnings |= outcome.warnings
            summary.paths |= outcome.paths
            summary.seconds |= outcome.seconds
    concluded(summary, total)
    return summary


def count_of(cases: int) -> int:
    """Return the number of parts of so many cases."""
    return max(1, min(cases, max(LEAST, -(-cases // CASES_A_PART))))


def parts_of(request: Request, cases: int) -> Iterator[_Part]:
    count = count_of(cases)
    here = replace(request, crew=Crew(), quiet=True, num_parts=count)
    for i in range(count):
        yield _Part(f"part_{i}_of_{count}", replace(here, part_id=i, job=uuid.uuid4().hex))


def _predicted(part: _Part) -> Summary:
    with decoder() as decoded:
        return predicted(ready(part.request), decoded)
