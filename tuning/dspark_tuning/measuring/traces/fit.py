"""A scenario's workload fitted to a trace."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy import stats

from dspark_simulator.workloads import Empirical, Fixed, Gamma, LengthDistribution, Lognormal, Poisson, Slo
from dspark_simulator.workloads.traces import TraceRows
from dspark_tuning.measuring.traces.statistics import gap_cv

# A lognormal whose distribution function is nowhere farther off describes the lengths; otherwise their quantiles do.
KS_MOST = 0.05
_QUANTILES = 64
_MOST = 1_000_000
_POISSON_WITHIN = 0.02


class Stated(NamedTuple):
    """What a trace does not say of its requests.

    Attributes:
        domain: Acceptance domain of the texts.
        slo: Service level.
        source: Where the two come from, in words.
    """

    domain: str
    slo: Slo
    source: str


class FittedLengths(NamedTuple):
    """Lengths of a class.

    Attributes:
        distance: Largest distance of the fitted lognormal's distribution function from the trace's.
    """

    distribution: LengthDistribution
    distance: float

    def why(self) -> str:
        """The choice of the distribution, in words."""
        if isinstance(self.distribution, Fixed):
            return "the same in every request"
        chosen = "lognormal" if isinstance(self.distribution, Lognormal) else f"{_QUANTILES} quantiles"
        return f"{chosen}; a lognormal is off by {self.distance:.3f} at most (Kolmogorov-Smirnov)"


def fit_lengths(tokens: NDArray[Any]) -> FittedLengths:
    """The lognormal of the logarithms' mean and deviation, if it is near enough; otherwise quantiles."""
    if tokens.min() == tokens.max():
        return FittedLengths(Fixed(tokens=int(tokens[0])), 0.0)
    # A million lengths determine the distribution.
    tokens = tokens[:: -(-len(tokens) // _MOST)]
    logs = np.log(tokens)
    mu, sigma = float(logs.mean()), float(logs.std())
    low, high = int(tokens.min()), int(tokens.max())
    lengths = Lognormal(
        mean=round(float(np.exp(mu + sigma * sigma / 2)), 1), sigma=max(round(sigma, 4), 1e-4), min=low, max=high
    )
    drawn = lengths.quantiles((np.arange(20_000) + 0.5) / 20_000)
    distance = float(stats.ks_2samp(tokens, drawn, method="asymp").statistic)
    if distance <= KS_MOST:
        return FittedLengths(lengths, distance)
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    values = np.quantile(tokens, levels, method="inverted_cdf").astype(int)
    return FittedLengths(Empirical(values=tuple(values.tolist())), distance)


def workload_yaml(rows: TraceRows, stated: Stated) -> str:
    """The ``workload`` of a scenario file that has the trace's rate, burstiness, lengths and classes, with comments."""
    cv = gap_cv(rows.time_s)
    arrivals = (
        Poisson(rate_per_s=_rounded(rows.rate_per_s))
        if np.isnan(cv) or abs(cv - 1.0) <= _POISSON_WITHIN
        else Gamma(rate_per_s=_rounded(rows.rate_per_s), burstiness=_rounded(cv))
    )
    lines = [
        f"# {rows.description}",
        "# Gaps between arrivals are independent and lengths are drawn on their own: order and dependence are lost.",
        "workload:",
        f"  arrivals: {_flow(arrivals.model_dump())}  # gaps of the trace: coefficient of variation {cv:.3g}",
        "  classes:",
    ]
    everyone = np.ones(len(rows.time_s), np.bool_)
    names = rows.class_names or ("all",)
    for index, name in enumerate(names):
        members = everyone if rows.slo_class is None else rows.slo_class == index
        if not members.any():
            continue
        lines += [f"    - name: {_flow(name)}", f"      share: {_rounded(float(members.mean()))}"]
        for field, tokens in (("prompt", rows.prompt[members]), ("output", rows.output[members])):
            fitted = fit_lengths(tokens)
            lines.append(f"      # {fitted.why()}; mean of the trace {tokens.mean():.1f}")
            lines.append(f"      {field}: {_flow(fitted.distribution.model_dump())}")
        if rows.cached is not None:
            hit = float(rows.cached[members].sum(dtype=np.int64) / rows.prompt[members].sum(dtype=np.int64))
            lines.append(f"      cached_prefix: {_rounded(hit)}  # share of the prompt tokens, with an unlimited cache")
        lines.append(f"      # not in the trace, {stated.source}:")
        lines.append(f"      domain: {_flow(stated.domain)}")
        lines.append(f"      slo: {_flow(stated.slo.model_dump())}")
    return "\n".join(lines) + "\n"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _flow(value: Any) -> str:
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()} if isinstance(value, dict) else value
    text: str = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
