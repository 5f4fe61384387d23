"""A folder of new scans → a folder of translated ones, each on its source's own grid, in the target's units.

nndiff.predict("scans", "translated", "results/Dataset001_Name/bridge")
"""

from nndiff.prediction.pipeline import predict
from nndiff.prediction.record import Summary
from nndiff.prediction.request import Request

__all__ = ["Request", "Summary", "predict"]
