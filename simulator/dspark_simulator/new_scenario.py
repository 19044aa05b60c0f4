"""A scenario from a model, GPUs and traffic in a few words, for deployments that nobody has measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspark_simulator.acceptance_prior import prior
from dspark_simulator.model_on_gpus import ModelOnGpus
from dspark_simulator.scenario import Scenario, trace_arrivals
from dspark_simulator.workloads import Closed, Poisson, RequestClass, Slo, Workload
from dspark_simulator.workloads.lengths import Fixed
from dspark_simulator.workloads.traces import AS_READ, TraceSettings
from sglang_dspark.errors import validated

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1, le=2**31 - 1)]

# Loads of a closed loop, in clients.
CLIENTS: Final = (1, 4, 16, 48)


class Traffic(BaseModel):
    """Requests with one service level, of fixed lengths or from a trace.

    Attributes:
        isl, osl: Prompt and output of each request, in tokens; not used with a trace, which has its own.
        rate: Requests per second, Poisson; of a trace, the rate that it is scaled to. Without a rate and a trace the
            traffic is a closed loop.
        trace: Request log to replay.
        reading: How to read the trace.
        ttft_s, tpot_s: Service level.
        domain: Acceptance domain of the texts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    isl: Tokens = 1000
    osl: Tokens = 300
    rate: Positive | None = None
    trace: Path | None = None
    reading: TraceSettings = AS_READ
    ttft_s: Positive = 1.0
    tpot_s: Positive = 0.05
    domain: str = "mt-bench"

    @model_validator(mode="after")
    def _one_source(self) -> Traffic:
        for name in ("isl", "osl"):
            if self.trace is not None and name in self.model_fields_set:
                raise ValueError(f"{name} is given with a trace, which has lengths of its own; drop one of the two")
        return self

    def workload(self) -> Workload:
        """The workload; a trace's requests have its classes.

        Raises:
            InputError: The trace cannot be read.
        """
        arrivals: Any
        lengths = {"prompt": Fixed(tokens=self.isl), "output": Fixed(tokens=self.osl)}
        if self.trace is not None:
            arrivals = trace_arrivals(self.trace, self.reading)
            arrivals, lengths = arrivals if self.rate is None else arrivals.with_rate(self.rate), {}
        elif self.rate is not None:
            arrivals = Poisson(kind="poisson", rate_per_s=self.rate)
        else:
            arrivals = Closed(kind="closed", clients=CLIENTS[-1])
        slo = Slo(ttft_s=self.ttft_s, tpot_s=self.tpot_s)
        names = arrivals.class_names() or ("default",)
        classes = tuple(RequestClass(name=name, domain=self.domain, slo=slo, **lengths) for name in names)
        return Workload(arrivals=arrivals, classes=classes)

    def assumptions(self) -> list[str]:
        """What was not stated, as sentences."""
        unstated = {
            "isl": f"prompts of {self.isl} tokens",
            "osl": f"outputs of {self.osl} tokens",
            "rate": f"a closed loop of {', '.join(map(str, CLIENTS))} clients",
            "ttft_s": f"a TTFT of {self.ttft_s:g} s",
            "tpot_s": f"a TPOT of {self.tpot_s:g} s",
        }
        known = self.model_fields_set | ({"isl", "osl", "rate"} if self.trace is not None else set())
        missing = [text for name, text in unstated.items() if name not in known]
        return [f"Not stated, so assumed: {', '.join(missing)}."] if missing else []


def new_scenario(deployed: ModelOnGpus, traffic: Traffic) -> Scenario:
    """The scenario of a model on GPUs under a traffic, with SGLang's default flags and computed step times and pools.

    Raises:
        InputError: An unknown model or domain, an unreadable config or trace, or weights that do not fit.
    """
    fields = deployed.fields({})
    workload = traffic.workload()
    assumed = prior(fields["model"], {traffic.domain: 1.0}, own_draft=deployed.draft is not None)
    short = f"{fields['model'].rpartition('/')[2]}-{fields['hardware']}".lower()
    content = {
        "name": short.replace(" ", "-"),
        **fields,
        "description": " ".join([fields["description"], assumed.because, *traffic.assumptions()]),
        "drafter_quality": assumed.logits,
        "workload": workload,
        "loads": CLIENTS if workload.clients is not None else (1.0,),
    }
    return validated(Scenario, content, content["name"])
