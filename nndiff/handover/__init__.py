"""Handing a trained model on: export into one file (export.py), installation of such a file (install.py).

nndiff.export_model("results/Dataset001_Name/bridge", "model.zip")
"""

from nndiff.handover.export import Request, Summary, export
from nndiff.handover.install import install

__all__ = ["Request", "Summary", "export", "install"]
