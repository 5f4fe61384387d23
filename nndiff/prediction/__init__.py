"""Prediction: translates a folder of new scans, each on the grid of its source and in the units of the target.

nndiff.predict("scans", "translated", "results/Dataset001_Name/bridge")
"""

from nndiff.prediction import parts, pipeline
from nndiff.prediction.record import Summary
from nndiff.prediction.request import Request

__all__ = ["Request", "Summary", "predict"]


def predict(request: Request) -> Summary:
    """Translate (or generate) every case, here or on a cluster; raise an error at the end if a case failed."""
    return parts.predict(request) if request.crew.elsewhere else pipeline.predict(request)
