"""nndiff: self-configuring 3D diffusion models that translate medical volumes.

The public functions, each a stage that reads files and writes files, usable from a notebook:

    plan         a raw dataset → plan.json: every decision with its reason
    preprocess   raw cases → prepared cases, as the plan says
    train        prepared cases → a fold's checkpoints
    tune         a trained fold → the sampler that suits it best
    predict      a folder of scans → a folder of translated ones
    evaluate     predictions and truth → figures

    export_model    a trained model → one file, to hand it on
    install_model   such a file → an installed model
    find_best_configuration     trained folds and a raw dataset → which configuration to use

They check dataset and plan before they import a stage, which takes seconds.

Everything else is private by convention. Floors, imported downward only (tests/test_architecture.py):

    0  words
    1  mechanisms         imaging  diffusion  networks  metrics
    2  parts of a plan    families  walk
    3  the plan           plans
    4  methods            methods
    5  shared core        resources  data  sampling  assemble  checkpoint  folds  archive  pictures
    6  stages             planning  training  tuning  prediction  evaluation  handover  demo
    7  commands           cli, and these functions
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nndiff.words.crew import Crew, Workers
from nndiff.words.version import VERSION as __version__

if TYPE_CHECKING:
    from nndiff.checkpoint import Epoch
    from nndiff.data.preprocess import Summary as Prepared
    from nndiff.evaluation import Evaluation
    from nndiff.handover import Summary as Exported
    from nndiff.plans.plan import Plan
    from nndiff.prediction import Summary
    from nndiff.sampling.inference import Inference
    from nndiff.words.best import Best

__all__ = [
    "Crew",
    "__version__",
    "evaluate",
    "export_model",
    "find_best_configuration",
    "install_model",
    "plan",
    "predict",
    "preprocess",
    "train",
    "tune",
]

Folder = str | Path


def plan(
    dataset: str,
    configurations: Sequence[str] | None = None,
    *,
    settings: Sequence[str] = (),
    gpu_memory_target: float | None = None,
    clean: bool = False,
    dry_run: bool = False,
    verify: bool = True,
    workers: Workers = None,
    raw: Folder | None = None,
    preprocessed: Folder | None = None,
) -> Plan:
    """Examine a raw dataset, decide how to train on it, and write fingerprint.json and plan.json.

    Args:
        dataset: number ("1") or name ("Dataset001_Name") of a folder below `raw`.
        configurations: methods to plan; unset: those that are planned for the dataset's task.
        settings: decisions made by hand, such as "configurations.bridge.batch_size=4".
        gpu_memory_target: GB of the GPU to plan for; unset: the GPU of this machine, else its RAM.
        clean: read the scans again, and forget the existing plan with what was edited in it by hand.
        dry_run: write no plan. The fingerprint is kept where there is no plan yet, so that the next run is quick.
        verify: look for NaN, empty scans, overflows, duplicates and clashing grids first.
        workers: processes at most, 0 for none; or a `Crew`, whose workers may be those of a cluster.
        raw, preprocessed: root folders, instead of those in the environment (nndiff_raw, nndiff_preprocessed).

    Returns:
        The plan: `plan.decisions` lists every decision with its reason and alternatives.
    """
    paths = _paths(raw=raw, preprocessed=preprocessed)
    name = paths.dataset_name(dataset)

    from nndiff.data.kept import keep, measured
    from nndiff.planning.request import planned, request
    from nndiff.words import dataset as raw_dataset

    found = raw_dataset.read(paths.raw / name)
    folder = paths.preprocessed / name
    asked = request(folder, found.task, configurations, settings, gpu_memory_target, writes=not dry_run)
    known = measured(found, folder, workers, verify, anew=clean)
    if not known.kept and (not dry_run or not asked.path.exists()):
        keep(folder, known)
    return planned(asked, known.fingerprint, clean, writes=not dry_run).plan


def preprocess(
    dataset: str,
    configurations: Sequence[str] | None = None,
    *,
    workers: Workers = None,
    raw: Folder | None = None,
    preprocessed: Folder | None = None,
) -> list[Prepared]:
    """Bring every case to the grid and range of each configuration; cases that are ready are skipped.

    Args:
        dataset: number or name.
        configurations: of the plan; unset: all.
        workers: processes at most, 0 for none; or a `Crew`, whose workers may be those of a cluster.
        raw, preprocessed: root folders, instead of those in the environment.

    Returns:
        A summary per configuration: its folder, how many cases were prepared, what the way back costs.
    """
    paths = _paths(raw=raw, preprocessed=preprocessed)
    name = paths.dataset_name(dataset)

    from nndiff.data.preprocess import preprocess as stage
    from nndiff.plans.plan import load_plan
    from nndiff.words import dataset as raw_dataset

    found = load_plan(paths.preprocessed / name / "plan.json", f"plan it first: nndiff_plan -d {dataset}")
    names = configurations or list(found.configurations)
    return stage(raw_dataset.read(paths.raw / name), found, names, paths.preprocessed / name, workers)


def train(
    dataset: str,
    configuration: str,
    fold: int | str = 0,
    *,
    settings: Sequence[str] = (),
    time_budget: float | None = None,
    seed: int = 0,
    resume: bool = False,
    restart: bool = False,
    begin_with: Folder | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    tensorboard: bool = False,
    device: str | None = None,
    workers: int | None = None,
    preprocessed: Folder | None = None,
    results: Folder | None = None,
) -> Path:
    """Train one fold of a planned and preprocessed dataset.

    Args:
        dataset: number or name.
        configuration: of the plan, such as "bridge".
        fold: 0, 1, …, or "all" to train on every case.
        settings: fields of the configuration changed for this training, such as "learning_rate=1e-4".
        time_budget: seconds for training and validation together; unset: the plan's number of steps.
        seed: of weights, batches, times and noise.
        resume: go on from the last checkpoint with the settings that the training was begun with. A training that
            is asked for again with the same settings, or whose job a scheduler begins again, does so by itself.
        restart: begin anew; an earlier training of the fold is moved to earlier/ beside it.
        begin_with: another run's weights: its fold's folder, a checkpoint, a configuration trained in this fold, or a
            model in one file.
        on_epoch: called after every epoch with its figures (`nndiff.checkpoint.Epoch`), e.g. to feed a tracker.
        tensorboard: write the same figures for TensorBoard, into the fold's folder tensorboard/.
        device: "cuda", "cpu" or "mps"; unset: the GPU, else the CPU.
        workers: processes that load data.
        preprocessed, results: root folders, instead of those in the environment.

    Returns:
        The fold's folder, with checkpoint_best.pt, progress.png and log.txt.
    """
    from nndiff.plans.plan import load, load_plan

    paths = _paths(preprocessed=preprocessed, results=results)
    name = paths.dataset_name(dataset)
    prepared, folder = paths.preprocessed / name, paths.results / name
    found = load_plan(prepared / "plan.json", f"plan it first: nndiff_plan_and_preprocess -d {dataset}")
    found.demand_configuration(configuration)

    from nndiff.checkpoint import LATEST, of_another, seen_of
    from nndiff.planning.overrides import put_in
    from nndiff.resources.machine import training_device
    from nndiff.training.request import Request
    from nndiff.training.run import train as stage
    from nndiff.words.errors import NndiffError
    from nndiff.words.fingerprint import Fingerprint
    from nndiff.words.lives import life

    latest = folder / configuration / f"fold_{fold}" / LATEST
    if life().later:  # the same words again: they have been heard in the first life
        restart = False
        if latest.exists():
            resume, settings, time_budget, seed, begin_with = True, (), None, 0, None
    if resume and restart:
        raise NndiffError(
            "A training cannot both go on and begin anew.", found="--c and --restart", remedy="pass one of them"
        )
    if resume and latest.exists() and (settings or time_budget or seed or begin_with):
        raise NndiffError(
            "A resumed training keeps the settings it was started with.",
            found="--c together with --set, --seed, --from or --time_budget",
            where=latest,
            remedy="pass --c alone, or --restart with the new settings to begin anew",
        )
    measured = load(Fingerprint, prepared / "fingerprint.json", "extract it first: nndiff_extract_fingerprint")
    listeners = [] if on_epoch is None else [on_epoch]
    if tensorboard:
        from nndiff.training.tensorboard import Board

        listeners.append(Board(latest.parent))
    return stage(
        Request(
            plan=put_in(found, configuration, settings),
            configuration=configuration,
            fold=str(fold),
            prepared=prepared,
            results=folder,
            device=training_device(device),
            seen=seen_of(measured),
            seed=seed,
            time_budget=time_budget,
            go_on=resume,
            restart=restart,
            workers=workers,
            listeners=tuple(listeners),
            begin_with=None if begin_with is None else of_another(begin_with, folder, str(fold)),
        )
    )


def tune(
    dataset: str,
    configuration: str,
    fold: int | str = 0,
    *,
    objective: str = "balanced",
    time_budget: float | None = None,
    seconds_per_volume: float | None = None,
    checkpoint: str = "checkpoint_best.pt",
    seed: int = 0,
    device: str | None = None,
    preprocessed: Folder | None = None,
    results: Folder | None = None,
) -> Inference:
    """Choose a trained fold's sampler on its held-out cases, by quality against seconds.

    Args:
        dataset, configuration, fold: the trained fold.
        objective: "fidelity", "balanced" or "texture": how much texture counts.
        time_budget: seconds; unset: a fifth of the training's.
        seconds_per_volume: nothing slower is chosen, on this machine.
        checkpoint: file name in the fold's folder.
        seed: of noise, and of which cases choose and which report.
        device: "cuda", "cpu" or "mps"; unset: the GPU, else the CPU.
        preprocessed, results: root folders, instead of those in the environment.

    Returns:
        What inference.json holds: the sampler chosen, the sweep, and the report on cases that did not choose.
    """
    paths = _paths(preprocessed=preprocessed, results=results)
    name = paths.dataset_name(dataset)

    import torch

    from nndiff.resources.machine import demand_device
    from nndiff.tuning.run import Request
    from nndiff.tuning.run import run as stage

    return stage(
        Request(
            fold=paths.results / name / configuration / f"fold_{fold}",
            prepared=paths.preprocessed / name,
            device=torch.device(demand_device(device)),
            budget=time_budget,
            objective=objective,
            seconds_a_volume=seconds_per_volume,
            checkpoint=checkpoint,
            seed=seed,
        )
    )


def predict(input: Folder | None, output: Folder, model: Folder, **options: Any) -> Summary:
    """Translate every scan in a folder with a trained model, or generate volumes.

    Args:
        input: folder of scans, CASE_0000.nii.gz …; None for a model that generates.
        output: folder that the volumes go to, each on its source's own grid and in the target's units.
        model: a configuration's folder (results/Dataset001_Name/bridge), one of its folds, or a model in one file.
        options: what differs from the model's own sampler, by the names of nndiff_predict's flags (steps=4,
            start="draft", eta=1.0, reuse=3, samples=8, rule="hot:ahead=2", …), and the fields of
            `nndiff.prediction.Request`: folds, volumes, save_uncertainty, save_samples, seed, device, …

    Returns:
        A summary: which cases were done, the paths of their volumes, seconds and warnings, and the path of the record.

    Raises:
        NndiffError: some case failed; the others are done.
    """
    from dataclasses import fields

    from nndiff.prediction import Request
    from nndiff.prediction import predict as stage
    from nndiff.walk.sampler import flags
    from nndiff.words.errors import NndiffError, nearest

    own = {field.name for field in fields(Request)}
    walk = {flag.name for flag in flags()}
    if unknown := sorted(set(options) - own - walk):
        raise NndiffError(f"nndiff.predict has no option '{unknown[0]}'.", remedy=nearest(unknown[0], own | walk))
    sampler: Mapping[str, Any] = {name: value for name, value in options.items() if name in walk}
    rest = {name: value for name, value in options.items() if name not in walk}
    source = None if input is None else Path(input)
    return stage(Request(input=source, output=Path(output), model=Path(model), sampler=sampler, **rest))


def evaluate(
    truth: Folder,
    prediction: Folder,
    output: Folder,
    *,
    input: Folder | None = None,
    masks: Folder | None = None,
    regions: Folder | None = None,
    **options: Any,
) -> Evaluation:
    """Compare predictions with the truth, beside the input and the best Gaussian filter of it.

    Args:
        truth, prediction: folders with CASE_0000.nii.gz …, named alike.
        output: folder that metrics.csv and summary.json go to; may be that of the predictions.
        input: what the predictions were made from, in the target's units.
        masks: CASE.nii.gz; measure only where they are above 0.5.
        regions: CASE.nii.gz; whole-numbered regions whose SUVmean and SUVmax are compared.
        options: input_channel, kinds ("ct", "pet", "mr", "auto"), edition, puzzle_factor, workers.

    Returns:
        The rows of metrics.csv, the summary, and the cases that failed.
    """
    from nndiff.evaluation import evaluate as stage

    folders = [None if folder is None else Path(folder) for folder in (input, masks, regions)]
    return stage(Path(truth), Path(prediction), Path(output), *folders, **options)


def export_model(
    model: Folder,
    output: Folder,
    *,
    folds: Sequence[str] | None = None,
    half: bool = False,
    licence: str = "",
    allow_unfinished: bool = False,
    configuration: str | None = None,
    preprocessed: Folder | None = None,
) -> Exported:
    """Write a trained model into one file, with a model card and checksums, without images and names of cases.

    Args:
        model: a configuration's folder (results/Dataset001_Name/bridge), or one of its folds.
        output: the file, which ends in .zip.
        folds: unset: all whose training has ended.
        half: store weights as float16; what this changes is measured.
        licence: of the weights, for the model card.
        allow_unfinished: also export folds whose training has not ended.
        configuration: that the model must have.
        preprocessed: root folder whose fingerprint of the dataset the model card summarises, instead of that in the
            environment, if it is set.

    Returns:
        A summary: the file, its folds, what float16 changes, and what else should be known.
    """
    from nndiff.handover import Request, export

    return export(
        Request(
            model=Path(model),
            output=Path(output),
            folds=None if folds is None else tuple(folds),
            half=half,
            licence=licence,
            allow_unfinished=allow_unfinished,
            configuration=configuration,
            preprocessed=_paths(preprocessed=preprocessed).preprocessed_if_set,
        )
    )


def install_model(file: Folder, name: str | None = None, *, results: Folder | None = None) -> Path:
    """Verify a model in one file, and install it as results/models/NAME.

    Args:
        file: what `export_model` has written.
        name: of the installed model; unset: the file's.
        results: root folder, instead of that in the environment.

    Returns:
        The folder of the installed model, which `predict` takes as `model`.
    """
    models = _paths(results=results).models

    from nndiff.handover import install

    folder: Path = install(Path(file), name, models).folder
    return folder


def find_best_configuration(
    dataset: str,
    configurations: Sequence[str] | None = None,
    folds: Sequence[int | str] | None = None,
    *,
    device: str | None = None,
    workers: Workers = None,
    quiet: bool = False,
    raw: Folder | None = None,
    results: Folder | None = None,
) -> Best:
    """Compare trained configurations on the cases that their folds did not train on, and write best.json.

    Each fold translates these cases alone, with its tuned sampler; what is up to date in crossval/ is kept.

    Args:
        dataset: number or name.
        configurations: folders below results/DATASET; unset: all that have a trained fold.
        folds: 0, 1, …; unset: all whose training has ended.
        device: "cuda", "cpu" or "mps"; unset: the GPU, else the CPU.
        workers: processes at most that measure, 0 for none; or a `Crew`.
        quiet: show no progress of the translations.
        raw, results: root folders, instead of those in the environment.

    Returns:
        What best.json holds: the advice, a row per configuration with its difference from the best, and the cases.
    """
    paths = _paths(raw=raw, results=results)
    name = paths.dataset_name(dataset)

    from nndiff.words import best
    from nndiff.words import dataset as raw_dataset

    found = raw_dataset.read(paths.raw / name)
    best.demand_pairs(found.task, found.folder)

    from nndiff.evaluation import crossval
    from nndiff.evaluation.comparison import Candidate, compare
    from nndiff.prediction import held_out

    folder = paths.results / name
    wanted = None if folds is None else [str(fold) for fold in folds]
    candidates = []
    for configuration, own in held_out.trained(folder, found, configurations, wanted).items():
        trials = []
        for fold in own:
            held_out.translate(fold, device, quiet)
            trials.append(crossval.measured(fold.output, fold.fold, fold.cases, fold.kinds, workers))
        candidates.append(Candidate(configuration, tuple(trials), own[0].prediction_bytes))
    compared = compare(candidates, {case.name: case.group for case in found.cases})
    best.save(folder, compared)
    return compared


def _paths(raw: Folder | None = None, preprocessed: Folder | None = None, results: Folder | None = None) -> Any:
    from nndiff.words.paths import Paths

    roots = (None if root is None else Path(root) for root in (raw, preprocessed, results))
    return Paths(*roots)
