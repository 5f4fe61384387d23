"""predict.json: how the volumes beside it were made, and what two runs must share to go on with one another."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

import nndiff
from nndiff.plans import migrate
from nndiff.plans.plan import digest
from nndiff.prediction.models import Trained
from nndiff.prediction.request import Request
from nndiff.walk.sampler import SamplerPlan
from nndiff.words.strict_json import encode


def begun_record(request: Request, trained: Trained, sampler: SamplerPlan, device: torch.device) -> dict[str, Any]:
    """Of all that is asked for, before the first case."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type
    return {
        "versions": {"nndiff": nndiff.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "command": sys.argv,
        "dataset": trained.plan.dataset,
        "configuration": trained.configuration,
        "plan": digest(trained.plan),
        "model": list(trained.sources),
        "puzzle_factor": list(trained.model.configuration.puzzle_factor),
        "precision": trained.model.configuration.precision,
        "sampler": encode(sampler),
        "seed": request.seed,
        "device": f"{device.type}: {name}",
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": 0.0,
        "cases": {},
        "failures": {},
    }


def how_made(record: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs must have in common to go on with one another: not where the model lies, but what it is."""
    known = ("fold", "step", "weights")
    model = [{key: fold.get(key) for key in known} for fold in record.get("model", [])]
    sampler: Any = record.get("sampler")
    if migrate.is_old_sampler(sampler):
        sampler = migrate.sampler(sampler)
    return {"model": model, "sampler": sampler, "seed": record.get("seed")}
