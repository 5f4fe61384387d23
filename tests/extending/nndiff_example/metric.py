"""An image metric: the 95th percentile of the absolute error."""

from __future__ import annotations

import numpy as np

from nndiff.metrics.table import Comparison, Metric, low_is_good


def _p95(c: Comparison) -> float:
    errors = np.abs(c.estimate - c.truth)
    return float(np.percentile(errors if c.mask is None else errors[c.mask], 95))


P95_ERROR = Metric("P95_error", _p95, "95th percentile of the absolute error", low_is_good, heading="P95")
