"""nndiff: self-configuring 3D diffusion models that translate medical volumes.

Floors, imported downward only (tests/test_architecture.py):

    0  words        errors files strict_json paths volume dataset plan registry
    1  mechanisms   imaging/ diffusion/ networks/ metrics/
    2  shared core  assemble prepare translate reuse scoring inference checkpoint statistics memory machine …
    3  stages       integrity fingerprint planning/ preprocess training/ tuning/ prediction/ …
    4  commands     cli/

In Python:  nndiff.predict(input, output, model)  is nndiff_predict; see `predict`.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def predict(input: str | Path | None, output: str | Path, model: str | Path, **options: Any) -> Any:
    """Translate every scan in `input` with the trained model in the folder `model`, and write it to `output`.

    `model` is a configuration's folder (results/Dataset001_Name/bridge) or one of its folds; for a model that
    generates, `input` is None and `volumes` says how many. Options are the fields of
    `nndiff.prediction.Request`: folds, steps, start, ts, samples, save_uncertainty, seed, device, … Returns a Summary:
    which cases were done, their warnings, and the path of the record. Raises NndiffError when a case failed, after
    the others are done.
    """
    stage = importlib.import_module("nndiff.prediction")  # heavy, and floors above this one
    return stage.predict(
        stage.Request(input=None if input is None else Path(input), output=Path(output), model=Path(model), **options)
    )
