"""A model in one file: what prediction needs of its folds, as data that runs no code and that checksums protect.

    MODEL.zip = manifest.json                       format, version, and SHA-256 and size of every other part
                MODEL_CARD.md                       for people
                fold_K.json, fold_K.safetensors     for each fold: plan, step, ranges, tuned sampler; averaged weights

An archive may come from a stranger. `parts.py` judges and verifies it before anything is decoded, also where it was
unpacked into a folder (an installed model); `contents.py` converts between parts and folds.
"""

from __future__ import annotations

from nndiff.archive.contents import CARD, card_of, choose, folds_in, opened, parts_of, read_fold
from nndiff.archive.parts import Manifest, Parts
from nndiff.archive.writing import write

__all__ = ["CARD", "Manifest", "Parts", "card_of", "choose", "folds_in", "opened", "parts_of", "read_fold", "write"]
