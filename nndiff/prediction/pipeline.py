"""While one case is computed the next is read and the one before is written: three volumes in memory, never more.

    read → prepare          translate (K draws: mean, spread)          undo → write
    (a thread)              (here)                                     (a thread)

A case depends on (seed, its name) alone: neither on its neighbours, nor on how the folder is shared among machines.
A case that fails is reported, and the others go on.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nndiff
from nndiff.data.prepare import Prepared, empty, prepare
from nndiff.imaging import dicom, dicom_out, io
from nndiff.plans.plan import SamplerPlan
from nndiff.prediction import inputs, models
from nndiff.prediction.inputs import InputCase
from nndiff.prediction.models import Trained
from nndiff.prediction.record import begun_record, how_made
from nndiff.prediction.request import Request
from nndiff.prediction.sampling import demand_sampler, sampler_of
from nndiff.resources.machine import demand_device, free_memory
from nndiff.resources.memory import usable_now
from nndiff.resources.workers import Failure, demand_success
from nndiff.sampling.translate import Arrangement, arrangements, draw_seed, translate
from nndiff.words.errors import NndiffError
from nndiff.words.files import demand_writable, read_json, sweep, write_json
from nndiff.words.volume import FloatArray, Volume

UNITS_APART = 3.0  # a case this many times above or below all of training is said to be in other units
UNCERTAINTY, SAMPLES, SERIES = "uncertainty", "samples", "dicom"  # folders beside the volumes
COARSER = 1.6  # times the trained spacing, along some axis


@dataclass
class Summary:
    """What was done; the same as the record beside the outputs."""

    record: Path
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)


def predict(request: Request) -> Summary:
    """Translate (or generate) every case; raises at the end when some case failed."""
    _demand_sound(request)
    device = torch.device(demand_device(request.device))
    trained = models.load(request.model, request.folds, request.checkpoint, device, request.configuration)
    generates = trained.plan.task == "generation"
    _demand_task(request, generates)
    sampler = sampler_of(request, trained)
    if generates and sampler.start != "noise":
        raise NndiffError(f"Start '{sampler.start}' needs a source.", remedy="--start noise")
    oddities = demand_sampler(sampler, trained)
    if request.save_uncertainty and sampler.samples < 2:
        raise NndiffError("An uncertainty needs several draws.", found="1 sample", remedy="--samples 8")
    found = inputs.Inputs(_to_generate(request, trained), {}, ()) if generates else _found(request, trained)
    mine = found.cases[request.part :: request.parts]
    demand_writable(request.output)
    for folder in (request.output, request.output / UNCERTAINTY, request.output / SAMPLES):
        sweep(folder)
    work = _Work(request, trained, sampler, device)
    if oddities:
        work.summary.warnings["all cases"] = oddities
    total = len(mine) + len(found.failures)
    for name, reason in found.failures.items() if request.part == 0 else ():
        work.failed(Failure(name, reason, "", True))
    work.run(mine)
    demand_success(work.summary.failures, total, "Predict")
    return work.summary


# ---------------------------------------------------------------- the work


class _Work:
    def __init__(self, request: Request, trained: Trained, sampler: SamplerPlan, device: torch.device):
        self.request, self.trained, self.sampler, self.device = request, trained, sampler, device
        suffix = f"_part_{request.part}_of_{request.parts}" if request.parts > 1 else ""
        self.summary = Summary(request.output / f"predict{suffix}.json")
        self.clock = time.perf_counter()
        self.record = begun_record(request, trained, sampler, device)

    def run(self, cases: Sequence[InputCase]) -> None:
        todo = self._todo(cases)
        bar = _bar(len(todo) * self.sampler.steps * self.sampler.samples, self.request.quiet)
        with bar, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            ahead = reader.submit(_guarded, self._read, todo[0]) if todo else None
            behind: Future[Any] | None = None
            for i, case in enumerate(todo):
                assert ahead is not None
                outcome = ahead.result()
                ahead = reader.submit(_guarded, self._read, todo[i + 1]) if i + 1 < len(todo) else None
                bar.set_postfix_str(case.name)
                if not isinstance(outcome, Failure):
                    outcome = _guarded(self._compute, case, outcome, bar.update)
                if behind is not None:
                    behind.result()
                behind = writer.submit(self._finish, case, outcome)
                bar.n = (i + 1) * self.sampler.steps * self.sampler.samples  # a failed case leaves its steps undone
            if behind is not None:
                behind.result()
        self._write_record()

    def failed(self, failure: Failure) -> None:
        self.summary.failures.append(failure)
        self.record["failures"][failure.case] = failure.message

    def _todo(self, cases: Sequence[InputCase]) -> list[InputCase]:
        if not self.request.go_on:
            return list(cases)
        self._take_over()
        known = self.record["cases"]  # whatever else lies there was made in some other way
        self.summary.skipped = [
            case.name for case in cases if case.name in known and all(path.exists() for path in self._files(case))
        ]
        done = set(self.summary.skipped)
        return [case for case in cases if case.name not in done]

    def _take_over(self) -> None:
        """The record of what is there already, if it was made in the same way."""
        if not self.summary.record.exists():
            return
        before = read_json(self.summary.record)
        there = how_made(before)
        for key, value in how_made(self.record).items():
            if there[key] != value:
                raise NndiffError(
                    f"The outputs there were made with another {key}.",
                    expected=value,
                    found=there[key],
                    where=self.summary.record,
                    remedy="choose another output folder, or leave out --continue_prediction to make them anew",
                )
        self.record["cases"] = before.get("cases", {})

    # ------------------------------------------------------------ a case

    def _read(self, case: InputCase) -> tuple[Prepared, float]:
        clock = time.perf_counter()
        preparation = self.trained.preparation
        if not case.files:
            return empty(preparation), 0.0
        if self.request.dicom_out and not dicom.is_series(case.files[0]):
            raise NndiffError(
                "A derived series needs the patient and the study of a DICOM scan.",
                expected=f"{case.name}: a folder or a zip of one series",
                found=case.files[0].name,
                remedy="leave out --dicom_out",
            )
        source = io.read(case.files)
        if not np.isfinite(source.array).all():
            bad = int((~np.isfinite(source.array)).sum())
            raise NndiffError(
                "The source holds voxels that are NaN or infinite.",
                found=f"{bad} of {source.array.size}",
                where=case.files[0],
                remedy="mend the file; nndiff does not guess what belongs there",
            )
        prepared = prepare(source, None, None, preparation)
        self.summary.warnings[case.name] = self._warnings(source)
        return prepared, time.perf_counter() - clock

    def _warnings(self, source: Volume) -> list[str]:
        lines = []
        for channel, seen in zip(source.array, self.trained.seen, strict=True):
            peak = float(np.percentile(channel, 99.99))
            low, high = seen.peaks
            if not low / UNITS_APART <= peak <= high * UNITS_APART:
                lines.append(
                    f"{seen.name}: intensities outside the training range (P99.99 {peak:.4g}, in training "
                    f"{low:.4g} to {high:.4g}); are the units the same?"
                )
        trained = self.trained.preparation.spacing
        if any(own > COARSER * s for own, s in zip(source.grid.spacing, trained, strict=True)):
            coarse, fine = (" x ".join(f"{s:.3g}" for s in spacing) for spacing in (source.grid.spacing, trained))
            lines.append(f"coarser than what was trained on: {coarse} mm, trained at {fine} mm")
        return lines

    def _compute(self, case: InputCase, read: tuple[Prepared, float], on_step: Callable[[], Any]) -> _Computed:
        clock = time.perf_counter()
        prepared, reading = read
        shape, model = prepared.grid.shape, self.trained.model
        source = None if prepared.source is None else torch.from_numpy(prepared.source)
        overlap = None if self.request.step_size is None else 1 - self.request.step_size
        usable = usable_now(free_memory(self.device.type), self.device.type)
        options = arrangements(model, shape, usable, overlap, self.sampler)
        used = [options[0]]
        draws = _Draws()
        for k in range(self.sampler.samples):
            generator = torch.Generator().manual_seed(draw_seed(self.request.seed, case.name, k))
            draw = translate(model, source, shape, self.sampler, generator, options, on_step, used.append).numpy()
            draws.add(draw, keep=self.request.save_samples)
            options = [option for option in options if option.bytes <= used[-1].bytes]  # never back to what failed
        return _Computed(prepared, draws, used[-1], reading, time.perf_counter() - clock)

    def _finish(self, case: InputCase, outcome: _Computed | Failure) -> None:
        if not isinstance(outcome, Failure):
            outcome = _guarded(self._write, case, outcome)
        if isinstance(outcome, Failure):
            self.failed(replace(outcome, case=case.name))
        else:
            self.summary.done.append(case.name)
            self.record["cases"][case.name] = outcome
        self._write_record()

    def _write(self, case: InputCase, computed: _Computed) -> dict[str, Any]:
        clock = time.perf_counter()
        undo, draws = computed.prepared.undo, computed.draws
        outputs = self._outputs(case)
        channels = self.trained.plan.target_channels
        if self.request.save_uncertainty:
            spread = np.maximum(undo.of_spread()(draws.spread).array, 0)  # a spline overshoots
            for path, array in zip(self._uncertainties(case), spread, strict=True):
                _write_channel(array, undo, path, np.float32)
        for sample, paths in zip(draws.kept, self._samples(case), strict=bool(draws.kept)):
            for path, array in zip(paths, undo(sample).array, strict=True):
                _write_channel(array, undo, path, np.float32)
        for path, array, channel_word in zip(outputs, undo(draws.mean).array, channels, strict=True):
            _write_channel(array, undo, path, channel_word.kind.dtype)
            if self.request.dicom_out:
                what = f"{self.trained.configuration} of {self.trained.plan.dataset}, nndiff {nndiff.__version__}"
                assert undo.layout is not None
                stored = io.as_stored(array, undo.layout)
                dicom_out.write(stored, channel_word.kind, what, case.files[0], self._series(path))
        return {
            "outputs": [path.name for path in outputs],
            "warnings": self.summary.warnings.get(case.name, []),
            "shape": list(computed.prepared.grid.shape),
            "tiles": len(computed.arrangement.tiling),
            "tile": list(computed.arrangement.tiling.size),
            "predicted_bytes": computed.arrangement.bytes,
            "seconds": {
                "read": round(computed.reading, 3),
                "compute": round(computed.computing, 3),
                "write": round(time.perf_counter() - clock, 3),
            },
        }

    def _outputs(self, case: InputCase, word: str = "", below: str = ".") -> list[Path]:
        """A file a target channel."""
        count = len(self.trained.plan.target_channels)
        folder = self.request.output / below
        return [folder / f"{case.name}{word}_{channel:04d}{case.ending}" for channel in range(count)]

    def _series(self, output: Path) -> Path:
        return self.request.output / SERIES / output.name.removesuffix(inputs.DICOM_TO)

    def _uncertainties(self, case: InputCase) -> list[Path]:
        return self._outputs(case, "", UNCERTAINTY)

    def _samples(self, case: InputCase) -> list[list[Path]]:
        return [self._outputs(case, f"_sample{k:02d}", SAMPLES) for k in range(self.sampler.samples)]

    def _files(self, case: InputCase) -> list[Path]:
        """All that is asked for."""
        files = self._outputs(case)
        if self.request.dicom_out:
            files += [self._series(path) for path in self._outputs(case)]
        if self.request.save_uncertainty:
            files += self._uncertainties(case)
        if self.request.save_samples:
            files += [path for paths in self._samples(case) for path in paths]
        return files

    def _write_record(self) -> None:
        self.record["seconds"] = round(time.perf_counter() - self.clock, 2)
        write_json(self.summary.record, self.record)


@dataclass(frozen=True, eq=False)
class _Computed:
    prepared: Prepared
    draws: _Draws
    arrangement: Arrangement
    reading: float
    computing: float


class _Draws:
    """Mean and standard deviation of the draws, as they come (Welford 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: FloatArray = np.zeros(0, dtype=np.float32)
        self.squares: FloatArray = np.zeros(0, dtype=np.float32)
        self.kept: list[FloatArray] = []

    def add(self, draw: FloatArray, keep: bool) -> None:
        self.count += 1
        if keep:
            self.kept.append(draw)
        if self.count == 1:
            self.mean, self.squares = draw, np.zeros_like(draw)
            return
        before = draw - self.mean
        self.mean = (self.mean + before / self.count).astype(np.float32, copy=False)
        self.squares += before * (draw - self.mean)

    @property
    def spread(self) -> FloatArray:
        return np.sqrt(self.squares / max(1, self.count - 1)).astype(np.float32)


def _write_channel(array: FloatArray, undo: Any, path: Path, dtype: Any) -> None:
    io.write(Volume(array[None], undo.original, undo.layout), path, dtype)


# ---------------------------------------------------------------- around it


def _guarded(function: Callable[..., Any], case: InputCase, *rest: Any) -> Any:
    try:
        return function(case, *rest)
    except NndiffError as error:
        return Failure(case.name, str(error), traceback.format_exc(), True)
    except MemoryError:
        return Failure(case.name, "out of memory", traceback.format_exc(), True)
    except Exception as error:
        return Failure(case.name, f"{type(error).__name__}: {error}", traceback.format_exc(), False)


def _demand_sound(request: Request) -> None:
    if request.input is not None and request.input.resolve() == request.output.resolve():
        raise NndiffError(
            "The output folder is the input folder: outputs would replace the scans.",
            where=request.output,
            remedy="choose another -o",
        )
    if request.seed < 0 or request.volumes < 1:
        name, least, found = ("-seed", 0, request.seed) if request.seed < 0 else ("-n", 1, request.volumes)
        raise NndiffError(f"{name} is too small.", expected=f"{least} or more", found=found)
    if not 0 <= request.part < request.parts:
        raise NndiffError("-part_id counts from 0.", expected=f"0 to {request.parts - 1}", found=request.part)
    if request.step_size is not None and not 0 < request.step_size <= 1:
        raise NndiffError("-step_size is a share of the tile.", expected="above 0, at most 1", found=request.step_size)


def _demand_task(request: Request, generates: bool) -> None:
    if generates and request.input is not None:
        raise NndiffError("This model generates: it takes no input.", remedy="leave out -i; -n says how many volumes")
    if generates and request.dicom_out:
        raise NndiffError("A generated volume has no patient: there is no series to derive.", remedy="no --dicom_out")
    if not generates and request.input is None:
        raise NndiffError("This model translates: it needs scans.", remedy="-i FOLDER")


def _found(request: Request, trained: Trained) -> inputs.Inputs:
    assert request.input is not None
    found = inputs.find(request.input, trained.plan.source_channels)
    if found.ignored and not request.quiet:
        print(f"Not read, by their names: {', '.join(found.ignored[:5])}", file=sys.stderr)
    return found


def _to_generate(request: Request, trained: Trained) -> tuple[InputCase, ...]:
    return tuple(InputCase(f"volume_{i:03d}", (), trained.plan.file_ending) for i in range(request.volumes))


def _bar(total: int, quiet: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, desc="Predict", unit="step", file=sys.stderr, dynamic_ncols=True, mininterval=0.5, disable=quiet
    )
