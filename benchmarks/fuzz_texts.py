"""What nndiff does with damaged files of its own: texts, prepared cases and checkpoints.

    python -m benchmarks.fuzz_texts [--files 2000] [--seed 0] [-o FILE.csv] [--keep FOLDER]

A tiny dataset is planned, trained and predicted. Then one of its files at a time is damaged: bits and bytes as those of
images are (fuzz.py), and in JSON values become hostile ones, and fields are removed, renamed, written twice or nested
deeply. The file is read by the function that the commands read it by, in a process that can be killed. Counted are

    foreign      an exception that is no NndiffError
    hang, crash  no answer within DEADLINE seconds, or the process died
    other        a prepared case or a checkpoint, which carry checksums, read with other contents without a word

People edit the other texts: another value in one of them is read as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import nndiff
from benchmarks import soak
from benchmarks.fuzz import DEADLINE, GOOD, Outcome, asked, damaged, told
from nndiff import checkpoint
from nndiff.cli import plan_and_preprocess
from nndiff.evaluation import puzzled_by
from nndiff.imaging import store
from nndiff.plans.plan import load, load_plan
from nndiff.prediction.record import Record
from nndiff.resources.apart import Apart
from nndiff.sampling import inference
from nndiff.sampling.inference import digest_of
from nndiff.training import folds
from nndiff.words import dataset
from nndiff.words.fingerprint import Fingerprint
from nndiff.words.strict_json import encode

BAD = ("foreign", "hang", "crash", "other")
STEPS, TUNING = 2, 1.0  # s
BEGUN = "begun.json"
DEEP = 100_000  # brackets, one in another
HOSTILE: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**12,
    10**400,
    1e308,
    -0.5,
    float("nan"),
    float("inf"),
    "",
    "-",
    "x" * 10_000,
    "\u202e../../etc",
    [],
    {},
    [None],
    {"": 0},
    [[1, 2], "3"],
)


# ---------------------------------------------------------------- how each file is read


def _dataset(path: Path) -> object:
    return dataset.read(path.parent).channel_names


def _fingerprint(path: Path) -> object:
    return load(Fingerprint, path)


def _plan(path: Path) -> object:
    return load_plan(path)


def _splits(path: Path) -> object:
    return folds.read(path, {f"case_{i}": f"case_{i}" for i in range(3)})


def _case(path: Path) -> object:
    arrays = store.open_case(path.parent, "case_0")
    return _digests(arrays), store.read_record(path.parent, "case_0")


def _checkpoint(path: Path) -> object:
    found = checkpoint.load(path)
    return _digests({name: value.numpy() for name, value in found.weights.items()}), found.step, encode(found.plan)


def _digests(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    return {name: hashlib.sha256(np.ascontiguousarray(array)).hexdigest() for name, array in arrays.items()}


def _inference(path: Path) -> object:
    trained = checkpoint.load(path.parent / checkpoint.BEST)
    return inference.load(path.parent, checkpoint.BEST, trained.planned.sampler, digest_of(trained.ema))


def _record(path: Path) -> object:
    begun = json.loads(path.with_name(BEGUN).read_text())
    Record(path, begun | {"cases": {}}).take_over()
    return puzzled_by(None, path.parent)


Reading = Callable[[Path], object]
READINGS: dict[str, Reading] = {
    "dataset.json": _dataset,
    "fingerprint.json": _fingerprint,
    "plan.json": _plan,
    "splits.json": _splits,
    "case_0.json": _case,
    "case_0_source.npy": _case,
    checkpoint.LATEST: _checkpoint,
    inference.FILE: _inference,
    "predict.json": _record,
}
CHECKED = ("case_0.json", "case_0_source.npy", checkpoint.LATEST)  # by checksums
BESIDE = {  # what a reading needs besides the file
    "dataset.json": (),
    "case_0.json": ("case_0_source.npy", "case_0_target.npy"),
    "case_0_source.npy": ("case_0.json", "case_0_target.npy"),
    inference.FILE: (checkpoint.BEST,),
}


def read_one(path: Path) -> list[object]:
    return [repr(READINGS[path.name](path))]


# ---------------------------------------------------------------- sound files


def sound(folder: Path) -> dict[str, Path]:
    """Plan, train and predict a tiny dataset, and return where its files are."""
    raw, made = folder / "raw" / soak.DATASET, folder / "preprocessed" / soak.DATASET
    soak.write_dataset(raw)
    roots = ["--raw", str(folder / "raw"), "--preprocessed", str(folder / "preprocessed"), "-np", "0"]
    if plan_and_preprocess.main(["-d", "1", "-c", "bridge", *roots]):
        raise SystemExit(1)
    soak.trained(folder, STEPS, "0")
    nndiff.tune(
        soak.DATASET,
        "bridge",
        time_budget=TUNING,
        device="cpu",
        preprocessed=folder / "preprocessed",
        results=folder / "results",
    )
    next(soak.predicted(folder, 1))
    (fold,) = (folder / "results" / soak.DATASET / "bridge").glob("fold_*")
    return {path.name: path for place in (raw, made, made / "bridge", fold, folder / "out") for path in place.iterdir()}


def laid_out(files: dict[str, Path], name: str, place: Path) -> Path:
    """Copy a file and what its reading needs into an empty folder, and return its path."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if name == "dataset.json":
        shutil.copytree(files[name].parent, place, dirs_exist_ok=True)
    if name == "predict.json":
        shutil.copy(files[name], place / BEGUN)
    for each in (name, *BESIDE.get(name, ())):
        shutil.copy(files[each], place / each)
    return place / name


# ---------------------------------------------------------------- damage


def damaged_text(text: bytes, generator: np.random.Generator) -> bytes:
    """Return JSON with one value or field changed."""
    data = json.loads(text)
    places = list(_places(data))
    holder, key = places[int(generator.integers(len(places)))]
    kind = generator.choice(["value", "value", "other", "removed", "renamed", "twice", "deep"])
    if kind == "value":
        holder[key] = HOSTILE[int(generator.integers(len(HOSTILE)))]
    elif kind == "other":
        source, other = places[int(generator.integers(len(places)))]
        holder[key] = json.loads(json.dumps(source[other]))
    elif kind == "removed":
        del holder[key]
    elif kind == "renamed" and isinstance(holder, dict):
        holder[f"{key}_"] = holder.pop(key)
    elif kind == "twice" and isinstance(holder, dict):
        whole = json.dumps(data)
        return whole.replace(json.dumps(key), f"{json.dumps(key)}: 0, {json.dumps(key)}", 1).encode()
    else:
        holder[key] = "DEEP"
        return json.dumps(data).replace('"DEEP"', "[" * DEEP + "]" * DEEP, 1).encode()
    return json.dumps(data).encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every value of JSON as (what holds it, its key or index)."""
    for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
        yield data, key
        if isinstance(value, dict | list):
            yield from _places(value)


def tried(whole: dict[str, Path], files: int, seed: int, folder: Path) -> Iterator[tuple[str, Path, Outcome]]:
    """Yield the name, the path and what came of every damaged file; files that went wrong are kept."""
    generator = np.random.default_rng(seed)
    with Apart(read_one) as reader:
        right = {name: reader(laid_out(whole, name, folder / "now"), DEADLINE) for name in READINGS}
        for number in range(files):
            name = list(READINGS)[number % len(READINGS)]
            path = laid_out(whole, name, folder / "now")
            text = path.read_bytes()
            structured = name.endswith(".json") and generator.random() < 0.7
            path.write_bytes(damaged_text(text, generator) if structured else damaged(name, text, generator))
            found = asked(reader, path)
            if isinstance(found, list):
                other = name in CHECKED and found != right[name]
                found = Outcome("other" if other else GOOD, "")
            if found.kind in BAD:
                kept = folder / "kept" / f"{number:05d}_{found.kind}_{name}"
                kept.parent.mkdir(exist_ok=True)
                path = path.rename(kept)
            yield name, path, found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=None, metavar="FILE.csv")
    parser.add_argument("--keep", type=Path, default=None, metavar="FOLDER", help="keep the files that went wrong here")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.keep or Path(temporary)
        with contextlib.redirect_stdout(sys.stderr):
            files = sound(place / "sound")
        trials = tried(files, arguments.files, arguments.seed, place)
        return told(trials, list(READINGS), BAD, arguments.output)


if __name__ == "__main__":
    sys.exit(main())
