"""Archives for tests: sound ones, and ones that were changed by hand with or without a fitting manifest."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nndiff import checkpoint
from nndiff.checkpoint import BEST, Epoch
from nndiff.handover import Request, export
from nndiff.sampling import inference
from nndiff.sampling.inference import Inference, Row, digest_of
from nndiff.words.paths import MANIFEST
from tests.prediction.trained import model_folder
from tests.walks import changed

TRAINING, VALIDATION, TUNING = ("anna_smith", "bert_jones"), ("carl_brown",), ("dora_white",)
NAMES = (*TRAINING, *VALIDATION, *TUNING)  # of cases; in no archive


def model(root: Path, *, tuned: bool = True, folds: tuple[object, ...] = (0, 1), **words: Any) -> Path:
    """A model whose folds have cases with names, a history and, if `tuned`, a result of tuning."""
    folder = model_folder(root, folds=folds, **words)
    for path in sorted(folder.glob(f"*/{BEST}")):
        found = checkpoint.load(path)
        run = replace(found.run, training=TRAINING, validation=VALIDATION)
        checkpoint.save(path, replace(found, run=run, history=(_epoch(1, 20.0), _epoch(found.step, 31.25))))
        if tuned:
            inference.save(path.parent, _tuned(found.planned.sampler, digest_of(found.ema)))
    return folder


def _epoch(step: int, psnr: float) -> Epoch:
    return Epoch(1, step, 0.1, psnr, psnr, 0.9, 0.01, 25.5, 1e-4, 1.0, 1.0, 0.0)


def _tuned(planned: Any, weights: str) -> Inference:
    other = changed(planned, steps=2, eta=1.0)
    row = Row("two steps, measured", other, 50.0, 32.5, 0.9, 0.01, 1.0, len(TUNING), 2.0)
    return Inference(BEST, weights, "balanced", other, other, planned, TUNING, TUNING, (row,), (row,), 0.0, 0.0)


def exported(root: Path, name: str = "model.zip", **words: Any) -> Path:
    """The archive of such a model; `words` are those of the request."""
    folder = words.pop("folder", None) or model(root)
    return export(Request(folder, root / name, **words)).path


Contents = dict[str, bytes]


def contents(path: Path) -> Contents:
    """Name → bytes of every part, in the order of the file."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(path: Path, parts: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def sealed(parts: Contents, **words: Any) -> Contents:
    """The parts with a manifest that fits them; `words` change its fields."""
    manifest = json.loads(parts[MANIFEST]) | words
    listed = {name: data for name, data in parts.items() if name != MANIFEST}
    manifest["parts"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in listed.items()
    }
    return {**listed, MANIFEST: json.dumps(manifest).encode()}


def edited(parts: Contents, name: str, change: Callable[[Any], Any]) -> Contents:
    """The parts with a text changed as JSON."""
    return {**parts, name: json.dumps(change(json.loads(parts[name]))).encode()}


def raw_zip(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    """A zip file of any entries, those that have the same name too."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for entry, data in entries:
            archive.writestr(entry, data)
    return stream.getvalue()
