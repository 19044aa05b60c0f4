"""What-if changes of a plan: traffic, service levels, drafter or deployment, one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from scipy.optimize import brentq

from dspark_simulator.acceptance_model import AcceptanceModel, propose
from dspark_simulator.draws import stream
from dspark_simulator.model_on_gpus import USUAL_MEM_FRACTION, memory
from dspark_simulator.scenario import Scenario
from sglang_dspark.errors import InputError
from sglang_dspark.shapes.gpus import GPUS

BLOCKS: Final = 4000
FURTHEST_LOGITS: Final = 12.0
PRECISION_LOGITS: Final = 1e-6
SPELLING: Final = "write NAME=2x, NAME=+10%, NAME=-10% or NAME=NUMBER"


class Amount(NamedTuple):
    """Size of a change: a factor of the old value, or a new value."""

    factor: float | None
    value: float | None

    def of(self, old: float) -> float:
        """The changed value."""
        return old * self.factor if self.factor is not None else float(self.value or 0.0)


class Change(NamedTuple):
    """A what-if change.

    Attributes:
        text: The change as written, ``NAME=AMOUNT``.
        apply: Changes a scenario.
        lost: Number of lost replicas; the scenario stays the same.
    """

    text: str
    apply: Callable[[Scenario], Scenario]
    lost: int = 0


def parse(text: str) -> Change:
    """Parse ``NAME=AMOUNT``.

    Raises:
        InputError: Unknown name, or an amount that this change does not take.
    """
    name, equals, given = text.partition("=")
    if not equals or name not in {*CHANGES, "gpu", "lost"}:
        raise InputError(
            f"what_if: {text!r} is not valid; change one of {', '.join([*CHANGES, 'gpu', 'lost'])}, {SPELLING}"
        )
    if name == "gpu":
        if given not in GPUS:
            raise InputError(f"what_if: {text!r}: the GPU is not known; use one of {', '.join(GPUS)}")
        return Change(text, lambda scenario: _on_gpu(scenario, given, text))
    if name == "lost":
        if not given.isdigit() or int(given) < 1:
            raise InputError(f"what_if: {text!r} is not valid; give a whole number of replicas above 0")
        return Change(text, lambda scenario: scenario, int(given))
    amount = _amount(text, given)
    return Change(text, lambda scenario: CHANGES[name](scenario, amount, text))


def _amount(text: str, given: str) -> Amount:
    parts = re.fullmatch(r"([+-]?)(\d+(?:\.\d+)?)(x|%)?", given)
    if parts is None:
        raise InputError(f"what_if: {text!r} is not valid; {SPELLING}")
    sign, number, unit = parts[1], float(parts[2]), parts[3]
    if unit == "%" and sign:
        factor = 1.0 + (number if sign == "+" else -number) / 100.0
    elif unit == "x" and not sign:
        factor = number
    elif unit is None and not sign:
        if number <= 0:
            raise InputError(f"what_if: {text!r} is not valid; give a value above 0")
        return Amount(None, number)
    else:
        raise InputError(f"what_if: {text!r} is not valid; {SPELLING}")
    if factor <= 0:
        raise InputError(f"what_if: {text!r} is a factor of 0 or less; give a factor above 0")
    return Amount(factor, None)


def _rate(scenario: Scenario, amount: Amount, text: str) -> Scenario:
    workload = scenario.workload
    return scenario.with_workload(workload.with_rate(amount.of(workload.rate_per_s)))


def _lengths(field: str) -> Callable[[Scenario, Amount, str], Scenario]:
    def changed(scenario: Scenario, amount: Amount, text: str) -> Scenario:
        if scenario.workload.arrivals.has_lengths:
            raise InputError(f"what_if: {text!r}: the lengths of a trace are fixed; give distributions in the plan")
        if amount.factor is None:
            raise InputError(f"what_if: {text!r} is not valid; lengths take a factor, as {field}=1.5x")
        factor = amount.factor
        classes = tuple(
            klass.model_copy(update={field: getattr(klass, field).scaled(factor)})
            for klass in scenario.workload.classes
        )
        return scenario.with_workload(scenario.workload.model_copy(update={"classes": classes}))

    return changed


def _slo(field: str) -> Callable[[Scenario, Amount, str], Scenario]:
    def changed(scenario: Scenario, amount: Amount, text: str) -> Scenario:
        classes = tuple(
            klass.model_copy(update={"slo": klass.slo.model_copy(update={field: amount.of(getattr(klass.slo, field))})})
            for klass in scenario.workload.classes
        )
        return scenario.with_workload(scenario.workload.model_copy(update={"classes": classes}))

    return changed


def _capture(scenario: Scenario, amount: Amount, text: str) -> Scenario:
    server = scenario.server
    limit = max(1, round(amount.of(server.capture_requests)))
    return scenario.model_copy(update={"server": server.model_copy(update={"capture_requests": limit})})


def _kv(scenario: Scenario, amount: Amount, text: str) -> Scenario:
    memory = scenario.memory
    pools = {name: max(1, int(amount.of(getattr(memory, name)))) for name in ("kv_tokens", "kv_tokens_without_draft")}
    return scenario.model_copy(update={"memory": memory.model_copy(update=pools)})


def _acceptance(scenario: Scenario, amount: Amount, text: str) -> Scenario:
    if amount.factor is None:
        raise InputError(f"what_if: {text!r} is not valid; acceptance takes a factor, as acceptance=-10%")
    domains = [klass.domain for klass in scenario.workload.classes]
    drafter = scenario.drafter()
    goal = amount.factor * accepted_drafts(drafter, domains)

    def excess(logits: float) -> float:
        return accepted_drafts(drafter.shifted(logits), domains) - goal

    if not excess(-FURTHEST_LOGITS) < 0 < excess(FURTHEST_LOGITS):
        raise InputError(
            f"what_if: {text!r}: no drafter has {goal:.2f} of {drafter.gamma} drafts accepted; give a smaller factor"
        )
    logits = brentq(excess, -FURTHEST_LOGITS, FURTHEST_LOGITS, xtol=PRECISION_LOGITS)
    return scenario.model_copy(update={"acceptance": drafter.shifted(logits), "drafter_quality": 0.0})


def accepted_drafts(drafter: AcceptanceModel, domains: list[str]) -> float:
    """Mean accepted drafts of whole blocks, with equal weight of each of ``domains``."""
    compiled = drafter.compile(domains)
    survival = np.empty(drafter.gamma, np.float32)
    total = 0
    for block in range(BLOCKS):
        total += propose(compiled, np.uint64(stream(0, block)), block % len(domains), 0, drafter.gamma, survival)
    return total / BLOCKS


def _on_gpu(scenario: Scenario, gpu: str, text: str) -> Scenario:
    other, shapes = scenario.cost.on_gpu(gpu), scenario.cost.computed_from()
    if other is None or shapes is None or shapes.draft is None:
        raise InputError(
            f"what_if: {text!r}: {scenario.name} has measured step times, which hold for its own GPU; "
            "add the other hardware as a choice"
        )
    flags = scenario.server.pool_flags()
    fraction = scenario.mem_fraction_static or USUAL_MEM_FRACTION
    pools = memory(gpu, shapes.tp, fraction, shapes.model, shapes.draft, flags, scenario.name).known(
        scenario.server, other.flag_costs()
    )
    hardware = f"{shapes.tp}x{gpu}" if shapes.tp > 1 else gpu
    return scenario.model_copy(update={"cost": other, "memory": pools, "hardware": hardware})


CHANGES: Final[Mapping[str, Callable[[Scenario, Amount, str], Any]]] = {
    "rate": _rate,
    "prompt": _lengths("prompt"),
    "output": _lengths("output"),
    "acceptance": _acceptance,
    "ttft": _slo("ttft_s"),
    "tpot": _slo("tpot_s"),
    "capture": _capture,
    "kv": _kv,
}
