"""Search space: policy parameters, the correction of the cost belief, and server flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from dspark_simulator.scenario import Scenario
from dspark_simulator.server import Server
from dspark_simulator.simulation import Arm
from dspark_tuning.search.baselines import profiled_belief
from sglang_dspark.errors import InputError, from_validation
from sglang_dspark.policy import Argmax, Threshold

Params = dict[str, Any]
Choices = dict[str, BaseDistribution]

KNOTS = (1, 8, 32, 128, 512)
FAMILY = CategoricalDistribution(("threshold", "argmax"))
THETA = FloatDistribution(0.0, 0.9)
WEIGHT = FloatDistribution(0.5, 2.0, log=True)
PRICE_PER_TOKEN = CategoricalDistribution((0.0, 3e-6, 1e-5, 3e-5))
FILL = CategoricalDistribution((True, False))
OVERHEAD_S = FloatDistribution(0.0, 0.02)
SLOPE = FloatDistribution(0.5, 2.0, log=True)
RUNNING = (48, 64, 96, 128, 192, 256, 384, 512)
CAPTURE = (64, 128, 256, 512)
CHUNK = (2048, 4096, 8192, 16384)
# Flags that reduce the KV pool, in the order in which they are lowered to make room for it.
SIZES = {"chunked_prefill_size": CHUNK, "capture_requests": CAPTURE, "max_running_requests": RUNNING}
# "cap-accept" verifies whole blocks and discards acceptances beyond the admitted length: only pinned, never searched.
MODES = ("compact", "cap-accept")
INTERVAL = (0, 1, 2, 4, 8)
# 1 does not wait; 4 is SGLang's default under DSPARK from 19 running requests up.
FREE_SLOTS = (1, 4, 16)
# Value of ``off_above`` that never stops drafting.
NEVER = 1024


class Space:
    """Parameters of a candidate for a scenario, with the range or the pinned value of each.

    Args:
        pins: Fixed values by parameter name; these are not searched.

    Raises:
        InputError: A pin names an unknown parameter, an invalid value, or one that leaves no memory for the KV pool.
    """

    def __init__(self, scenario: Scenario, pins: Mapping[str, Any]) -> None:
        self.scenario = scenario
        self.beliefs = {gamma: profiled_belief(scenario, gamma) for gamma in range(1, scenario.drafter_gamma + 1)}
        self.classes = [klass.name for klass in scenario.workload.classes]
        largest = max(scenario.loads) if scenario.workload.clients is not None else KNOTS[-1]
        self.knots = tuple(knot for knot in KNOTS if knot <= largest) or KNOTS[:1]
        self.server: Choices = {
            "gamma": IntDistribution(1, scenario.drafter_gamma),
            "max_running_requests": CategoricalDistribution(RUNNING),
            "capture_requests": CategoricalDistribution(CAPTURE),
            "chunked_prefill_size": CategoricalDistribution(CHUNK),
            "verify_mode": CategoricalDistribution(MODES),
            "prefill_decode_interval": CategoricalDistribution(INTERVAL),
            "min_free_slots_delay": CategoricalDistribution(FREE_SLOTS),
        }
        self.families: dict[str, Choices] = {"threshold": self._threshold(), "argmax": self._argmax()}
        self.pins = {"verify_mode": MODES[0]} | {name: self._pin(name, value) for name, value in pins.items()}
        if scenario.server.capture_requests == 0 or scenario.server.cuda_graph_bs_decode is not None:
            # A server that captures nothing, or a list of batch sizes, has no capture limit to search.
            self.pins["capture_requests"] = scenario.server.capture_requests
        if scenario.server.engine != "sglang":
            self.pins |= {"prefill_decode_interval": 0, "min_free_slots_delay": None}
        # Raises if even the smallest sizes leave no KV pool.
        scenario.memory.tokens(self._sized({name: self.pins.get(name, sizes[0]) for name, sizes in SIZES.items()}))

    def describe(self) -> dict[str, Any]:
        """Range or pinned value of every parameter, for the provenance of an artifact."""
        choices = sorted(self._all().items())
        return {name: self.pins[name] if name in self.pins else _range(choice) for name, choice in choices}

    def suggest(self, trial: optuna.Trial) -> Params:
        """Suggest a candidate: the policy family, the parameters of that family, and the server flags."""
        params = {"family": self._suggest(trial, "family", FAMILY)}
        for name, choice in (self.families[params["family"]] | self.server).items():
            params[name] = self._suggest(trial, name, choice)
        return self._fitting(params)

    def flags(self) -> dict[str, Sequence[Any]]:
        """Candidate values of every server flag by field; a pinned flag has one."""
        return {
            name: (self.pins[name],) if name in self.pins else _values(choice) for name, choice in self.server.items()
        }

    def start(self, server: Server | None = None) -> Params:
        """Candidate without search: argmax with the profiled belief, corrected by the mean live overhead and slope.

        Args:
            server: Source of the flags; if None, the scenario's server with the largest sizes.
        """
        server = server or self._roomy()
        flags = {name: getattr(server, name) for name in self.server} | {
            "min_free_slots_delay": server.min_free_slots()
        }
        pinned = {name: value for name, value in self.pins.items() if name in self.server}
        live = self.scenario.live.centre()
        argmax = {"family": "argmax", "argmax_fill": True, "overhead_s": live.overhead_s, "slope": live.slope}
        return self._fitting(flags | {"verify_mode": "compact"} | pinned | argmax)

    def starts(self) -> list[Params]:
        """Candidates of the first trials: argmax with several overhead corrections, and flat and sloped thresholds."""
        start = self.start()
        low_s, high_s = self.scenario.live.overhead_s
        argmax = [{"overhead_s": min(x, OVERHEAD_S.high)} for x in sorted({0.0, low_s, (low_s + high_s) / 2, high_s})]
        neutral: Params = {name: 1.0 for name in self.families["threshold"] if name.startswith("weight")} | {
            "family": "threshold",
            "fill": True,
            "min_length": 0,
            "max_length": self.scenario.drafter_gamma,
            "price_per_token": 0.0,
            "off_above": NEVER,
        }
        flat = [neutral | {f"theta_{knot}": theta for knot in self.knots} for theta in (0.05, 0.15, 0.3)]
        sloped = [
            neutral | {f"theta_{knot}": top * i / len(self.knots) for i, knot in enumerate(self.knots)}
            for top in (0.2, 0.4, 0.6)
        ]
        return [start | other | self.pins for other in (*argmax, *flat, *sloped)]

    def _roomy(self) -> Server:
        room = {"max_running_requests": RUNNING[-1], "capture_requests": CAPTURE[-1], "chunked_prefill_size": CHUNK[-1]}
        return self.scenario.server.model_copy(update=room | {"gamma": self.scenario.drafter_gamma})

    def searchable(self, params: Params) -> Params:
        """Parameters of a candidate that lie within the searched ranges: a scenario may state flags outside them."""
        choices = self._all()
        return {
            name: value for name, value in params.items() if name not in self.pins and _contains(choices[name], value)
        }

    def arm(self, name: str, params: Params) -> Arm:
        """Build the arm of a candidate."""
        gamma = params["gamma"]
        server = self.scenario.server.model_copy(update={name: params[name] for name in self.server})
        if params["family"] == "argmax":
            belief = self.beliefs[gamma].corrected(params["overhead_s"], params["slope"])
            return Arm(name, server, Argmax(fill=params["argmax_fill"]), belief)
        most = min(params["max_length"], gamma)
        policy = Threshold(
            running=self.knots,
            theta=tuple(params[f"theta_{knot}"] for knot in self.knots),
            weight=(1.0, *(params[f"weight_{klass}"] for klass in self.classes[1:])),
            price_per_token=params["price_per_token"],
            min_length=min(params["min_length"], most),
            max_length=most,
            fill=params["fill"],
            off_above=None if params["off_above"] == NEVER else params["off_above"],
        )
        return Arm(name, server, policy, self.beliefs[gamma])

    def _fitting(self, params: Params) -> Params:
        """Lower the sizes of ``params`` in the order of ``SIZES`` until a KV pool fits."""
        for name, sizes in SIZES.items():
            for size in sorted((size for size in sizes if size < params[name] and name not in self.pins), reverse=True):
                if not self.scenario.has_room(self._sized(params)):
                    params = params | {name: size}
        return params

    def _sized(self, flags: Params) -> Server:
        return self.scenario.server.model_copy(update={name: flags[name] for name in SIZES})

    def _threshold(self) -> Choices:
        gamma = self.scenario.drafter_gamma
        return {
            **{f"theta_{knot}": THETA for knot in self.knots},
            # Only ratios of weights matter: the first class has weight 1.
            **{f"weight_{klass}": WEIGHT for klass in self.classes[1:]},
            "price_per_token": PRICE_PER_TOKEN,
            "min_length": IntDistribution(0, min(2, gamma)),
            "max_length": IntDistribution(1, gamma),
            "fill": FILL,
            "off_above": CategoricalDistribution((64, 128, 256, NEVER)),
        }

    def _argmax(self) -> Choices:
        return {"overhead_s": OVERHEAD_S, "slope": SLOPE, "argmax_fill": FILL}

    def _all(self) -> Choices:
        return {"family": FAMILY} | self.server | self.families["threshold"] | self.families["argmax"]

    def _suggest(self, trial: optuna.Trial, name: str, choice: BaseDistribution) -> Any:
        if name in self.pins:
            return self.pins[name]
        if isinstance(choice, FloatDistribution):
            return trial.suggest_float(name, choice.low, choice.high, log=choice.log)
        if isinstance(choice, IntDistribution):
            return trial.suggest_int(name, choice.low, choice.high)
        assert isinstance(choice, CategoricalDistribution)
        return trial.suggest_categorical(name, choice.choices)

    def _pin(self, name: str, value: Any) -> Any:
        choices = self._all()
        if name not in choices:
            raise InputError(f"pin {name}: no such parameter; choose from {', '.join(sorted(choices))}")
        choice = choices[name]
        if isinstance(choice, CategoricalDistribution):
            # Flags may be pinned to values outside the search.
            numeric = all(isinstance(option, int | float) for option in choice.choices)
            valid = value in choice.choices or (numeric and isinstance(value, int) and value > 0)
        else:
            valid = isinstance(value, int | float) and _contains(choice, value)
            valid = valid and (isinstance(choice, FloatDistribution) or isinstance(value, int))
        if name in self.server and valid and not isinstance(value, bool):
            # ``model_copy`` does not validate, and a flag beyond the array sizes of the engine would corrupt them.
            try:
                Server.model_validate(self.scenario.server.model_dump() | {name: value})
            except ValidationError as error:
                raise from_validation(error, "pin") from error
        if not valid or (isinstance(value, bool) and choice is not FILL):
            raise InputError(f"pin {name}: {value!r} is not valid; give {_range(choice)}")
        return value


def _contains(choice: BaseDistribution, value: Any) -> bool:
    if isinstance(choice, CategoricalDistribution):
        return value in choice.choices
    assert isinstance(choice, FloatDistribution | IntDistribution)
    return bool(choice.low <= value <= choice.high)


def _values(choice: BaseDistribution) -> Sequence[Any]:
    if isinstance(choice, CategoricalDistribution):
        return choice.choices
    assert isinstance(choice, IntDistribution)
    return range(choice.low, choice.high + 1)


def _range(choice: BaseDistribution) -> Any:
    if isinstance(choice, CategoricalDistribution):
        return list(choice.choices)
    assert isinstance(choice, FloatDistribution | IntDistribution)
    return {"low": choice.low, "high": choice.high}
