"""The prediction pipeline: checks a request, then reads, computes and writes every case.

    request → model, sampler, cases          an invalid request is refused before the first case
    case    → read → draws → outputs         the cases overlap in time (schedule.py)
    record                                   predict.json, written after every case

The result of a case depends only on (seed, its name), not on other cases or on the distribution over machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nndiff.prediction import inputs, models
from nndiff.prediction.draws import Computation, Computed
from nndiff.prediction.inputs import InputCase, Inputs
from nndiff.prediction.models import Trained
from nndiff.prediction.outputs import Outputs, Writer
from nndiff.prediction.reading import Decoder, Read, Reader, decoder
from nndiff.prediction.record import Record, Summary, begun_record
from nndiff.prediction.request import Request, demand_sound, demand_task
from nndiff.prediction.schedule import Schedule
from nndiff.resources.machine import demand_device
from nndiff.resources.outcomes import Failure, demand_success
from nndiff.resources.owner import owned
from nndiff.sampling import dial
from nndiff.walk.sampler import SamplerPlan, revised_sampler
from nndiff.words.errors import NndiffError
from nndiff.words.files import demand_writable, sweep
from nndiff.words.telling import tell


@dataclass(frozen=True)
class Ready:
    """A request that has passed all checks, with what they have read."""

    request: Request
    trained: Trained
    sampler: SamplerPlan
    found: Inputs
    device: torch.device
    oddities: list[str]

    @property
    def total(self) -> int:
        """The number of cases of this part."""
        return len(self.mine) + len(self.unreadable)

    @property
    def mine(self) -> Sequence[InputCase]:
        return self.found.cases[self.request.part_id :: self.request.num_parts]

    @property
    def unreadable(self) -> dict[str, str]:
        return self.found.failures if self.request.part_id == 0 else {}  # the first part records them for all


def predict(request: Request) -> Summary:
    """Translate (or generate) every case and return a summary; raise an error at the end if a case failed."""
    with decoder() as decoded:  # begins while the model is loaded
        made = ready(request)
        summary = predicted(made, decoded)
    concluded(summary, made.total)
    return summary


def concluded(summary: Summary, total: int) -> None:
    """Raise an error if a case failed, after the warnings of the others, which the caller then does not see."""
    if summary.failures:
        for line in summary.warned():
            tell(line)
    demand_success(summary.failures, total, "Predict")


def ready(request: Request) -> Ready:
    """Return the request with its model and its cases, or refuse it."""
    demand_sound(request)
    device = torch.device(demand_device(request.device))
    trained = models.load(
        request.model, request.folds, request.checkpoint, device, request.configuration, request.allow_unfinished
    )
    trained.demand_weights(request.weights)
    generates = trained.plan.task == "generation"
    demand_task(request, generates)
    if not request.quiet:
        tell(trained.folds_in_words())
    own = trained.sampler
    if request.dial is not None:
        stop = dial.at(trained.dial, request.dial, trained.model.configuration)
        own = stop.sampler
        if not request.quiet:
            tell(f"Dial at {request.dial:g}: {stop.label()}")
    sampler = revised_sampler(own, request.sampler)
    sampler.start.demand_source(None if generates else request.input or request.files)
    sampler.demand(trained.model.setting)
    oddities = sampler.oddities()
    if request.save_uncertainty and sampler.samples < 2:
        raise NndiffError(
            "--save_uncertainty needs several draws.", expected="2 or more", found="1", remedy="pass --samples 8"
        )
    if request.save_expected_error and not trained.model.formulation.prediction.tells_error:
        raise NndiffError(
            "This model does not know the expected error of its image.",
            expected="a model with the prediction fused",
            found=f"prediction {trained.model.configuration.prediction}",
            remedy="pass --save_uncertainty with --samples 8, or plan with the current version and train again",
        )
    found = _inputs(request, trained, generates)
    demand_writable(request.output)
    return Ready(request, trained, sampler, found, device, [*oddities, *trained.oddities])


def predicted(made: Ready, decoded: Decoder) -> Summary:
    """Predict the cases of this part, and return which failed."""
    request, trained, sampler = made.request, made.trained, made.sampler
    with owned(request.output, _part(request), request.job):
        outputs = Outputs(request, len(trained.plan.target_channels), sampler.samples)
        for folder in outputs.folders:
            sweep(folder)
        record = _record(request, trained, sampler, made.device)
        if made.oddities:
            record.warn("all cases", made.oddities)
        for name, reason in made.unreadable.items():
            record.fail(Failure(name, reason, "", True))
        schedule = _schedule(made, decoded, outputs, record)
        cases = _to_do(request, made.mine, outputs, record)
        record.write()  # a later life of this job finds its own settings
        schedule.run(cases, request.quiet)
        record.write()
        return record.summary


def _inputs(request: Request, trained: Trained, generates: bool) -> Inputs:
    """Return the cases to predict; print which files are not read."""
    if generates:
        return inputs.to_generate(request.volumes, trained.plan.file_ending)
    if request.files is not None:
        return inputs.listed(request.files)
    assert request.input is not None
    found = inputs.find(request.input, trained.plan.source_channels)
    if found.ignored and not request.quiet:
        tell(f"Ignored because of their names: {', '.join(found.ignored[:5])}")
    return found


def _record(request: Request, trained: Trained, sampler: SamplerPlan, device: torch.device) -> Record:
    return Record(request.output / f"predict{_part(request)}.json", begun_record(request, trained, sampler, device))


def _part(request: Request) -> str:
    return f"_part_{request.part_id}_of_{request.num_parts}" if request.num_parts > 1 else ""


def _to_do(request: Request, cases: Sequence[InputCase], outputs: Outputs, record: Record) -> list[InputCase]:
    """Return the cases without those that an earlier prediction finished with the same settings."""
    if not request.go_on:
        if request.num_parts == 1:
            record.begin_anew()
        return list(cases)
    record.take_over()
    done = {case.name for case in cases if record.holds(case.name) and outputs.exist(case)}
    record.skip([case.name for case in cases if case.name in done])
    return [case for case in cases if case.name not in done]


def _schedule(made: Ready, decoded: Decoder, outputs: Outputs, record: Record) -> Schedule:
    request, trained, sampler = made.request, made.trained, made.sampler
    computation = Computation(request, trained, sampler, made.device)

    def compute(case: InputCase, read: Read, on_progress: Callable[[float], object]) -> Computed:
        if case.files:
            record.warn(case.name, read.warnings)
        return computation(case, read, on_progress)

    return Schedule(
        read=Reader(trained, request.dicom_out, decoded),
        compute=compute,
        write=Writer(outputs, trained, trained.spread_scale(sampler)),
        finish=record.finish,
        steps=sampler.steps * sampler.samples,
    )
