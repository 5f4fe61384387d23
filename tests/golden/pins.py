"""The contents of the golden files: the decisions of a plan, one file per plan, and the wording of all reasons.

    reason = wording, with # for each number  +  the numbers, in their order

Thus a reason can be reworded without a change of any plan, and the numbers can change without a change of wording.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from nndiff.plans.plan import Configuration, Decision, Plan
from nndiff.words.verdict import Alternative

WIDTH = 120  # of the JSON's lines
# Not the digits of a name (x0, bf16, P99.5); 104 000 is one number.
NUMBER = re.compile(r"(?<![\w.])-?\d+(?: \d{3}\b)*(?:\.\d+)?(?:e-?\d+)?")


def decisions_of(plan: Plan) -> str:
    """Return the plan as JSON: for each configuration its device, its predicted costs and a row for each decision."""
    parts: dict[str, Any] = {"dataset": plan.dataset}
    for name in ("", *plan.configurations):
        rows = _costs(plan.configurations[name]) if name else {}
        rows |= {decision.name: _row(decision) for decision in plan.decisions if decision.configuration == name}
        parts[name or "the whole dataset"] = rows
    return laid_out(parts) + "\n"


def wording_of(plan: Plan) -> set[str]:
    """Return a line for each reason and each alternative's note, without the numbers and the channels' names."""
    channels = "|".join(re.escape(channel.name) for channel in (*plan.source_channels, *plan.target_channels))
    lines = set()
    for decision in plan.decisions:
        name = decision.name.partition(".")[0]  # source_channels.0
        for head, text in ((name, decision.reason), *((f"{name}, not", other.note) for other in decision.alternatives)):
            words = NUMBER.sub("#", text)
            # Elsewhere a name is part of the wording: «in trials on PET».
            words = words if decision.configuration else re.sub(rf"\b({channels})\b", "CHANNEL", words)
            lines.add(f"{head}: {words}")
    return lines


def laid_out(data: Any, column: int = 0, depth: int = 1) -> str:
    """Return JSON with each value on one line where it fits, else with a line for each of its items."""
    line = json.dumps(data, ensure_ascii=False)
    if column + len(line) <= WIDTH or not isinstance(data, (dict, list)):
        return line
    pad, (first, last) = "  " * depth, "{}" if isinstance(data, dict) else "[]"
    rows = [pad + head + laid_out(item, len(pad + head), depth + 1) for head, item in _items(data)]
    return f"{first}\n" + ",\n".join(rows) + f"\n{pad[2:]}{last}"


def _items(data: dict[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        return ((f"{json.dumps(key)}: ", item) for key, item in data.items())
    return (("", item) for item in data)


def _costs(configuration: Configuration) -> dict[str, Any]:
    """The device's row of the printed plan, and the predicted costs as precisely as reasons state them."""
    budget, predicted = configuration.budget, configuration.predicted
    device = {"name": budget.device_name, "GB": round(budget.memory_bytes / 1e9, 1), "from": budget.memory_from}
    costs = {
        "training": {"GB": _gigabytes(predicted.training_bytes), "TFLOP": _teraflop(predicted.training_flops)},
        "prediction": {"GB": _gigabytes(predicted.prediction_bytes)},
    }
    return {"device": device, "predicted": costs}


def _row(decision: Decision) -> dict[str, Any]:
    """The value, the numbers of its reason, and the alternatives with the numbers of their notes."""
    alternatives = [_valued(other, other.note) for other in decision.alternatives]
    return _valued(decision, decision.reason) | ({"alternatives": alternatives} if alternatives else {})


def _valued(chosen: Decision | Alternative, text: str) -> dict[str, Any]:
    numbers = [_number(found) for found in NUMBER.findall(text)]
    return {"value": _six_digits(chosen.value)} | ({"numbers": numbers} if numbers else {})


def _number(text: str) -> int | float:
    digits = text.replace(" ", "")
    return float(digits) if set(digits) & set(".e") else int(digits)


def _six_digits(value: Any) -> Any:
    """As the plan is printed: what follows depends on the processor."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _six_digits(item) for key, item in value.items()}
    return [_six_digits(item) for item in value] if isinstance(value, list) else value


def _gigabytes(size: int) -> float:
    return round(size / 1e9, 2)


def _teraflop(flops: int) -> float:
    return float(f"{flops / 1e12:.3g}")
