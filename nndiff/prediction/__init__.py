"""Prediction: translates a folder of new scans, each on the grid of its source and in the units of the target.

nndiff.predict("scans", "translated", "results/Dataset001_Name/bridge")
"""

from nndiff.prediction.pipeline import predict
from nndiff.prediction.record import Summary
from nndiff.prediction.request import Request

__all__ = ["Request", "Summary", "predict"]
