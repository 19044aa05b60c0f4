"""Model of draft acceptance by the target, and of the confidence head's estimate of it.

The token at output index ``i`` of a request has a latent quality in logits,

    x = mean + ability * A(request) + persistence * P(i) + variation * V(i),

where ``A``, ``P`` and ``V`` are standard normal draws; ``P`` drifts along the output, linearly between draws every
``persistence_tokens`` tokens. Above ``knee`` quality grows ``stretch`` times as fast, for text that is almost
determined. At position ``j`` of a draft block, given an accepted prefix, the token is accepted iff its uniform draw is
below ``sigmoid(z)``, ``z = x + offsets[j]``; neither the draw nor ``x`` depends on the policy or on the start of the
block. The head's raw logit is ``slope[j] * z + bias[j]``, which sequential temperature scaling divides by
``sts[j]``.

The head sees all of ``z``, so a confidence never depends on an acceptance draw. A part hidden from the head and
independent between tokens would be indistinguishable from the acceptance draw, and a hidden part shared by the tokens
of a request does not improve the fit to the published figures. The division of shared quality into ``ability`` and
``persistence``, and the length of the persistence, are assumptions: the paper's figures are of single blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspark_simulator.draws import ABILITY, ACCEPT, PERSISTENCE, VARIATION, draw, normal, uniform
from dspark_simulator.wrong_kind import check_kind
from sglang_dspark.errors import InputError, did_you_mean, validated
from sglang_dspark.jit import njit
from sglang_dspark.parsing import parse_yaml

MAX_DOMAINS = 16
MAX_GAMMA = 16
MAX_PERSISTENCE_TOKENS = 128

PROFILE = "acceptance_profile.yaml"

ACCEPTANCE = np.dtype(
    [
        ("scale", np.int64),
        ("per_token", np.float64),
        ("near", np.float64, (MAX_PERSISTENCE_TOKENS,)),
        ("far", np.float64, (MAX_PERSISTENCE_TOKENS,)),
        ("mean", np.float64, (MAX_DOMAINS,)),
        ("ability", np.float64, (MAX_DOMAINS,)),
        ("persistence", np.float64, (MAX_DOMAINS,)),
        ("variation", np.float64, (MAX_DOMAINS,)),
        ("knee", np.float64, (MAX_DOMAINS,)),
        ("excess", np.float64, (MAX_DOMAINS,)),
        ("offset", np.float64, (MAX_DOMAINS, MAX_GAMMA)),
        ("gain", np.float64, (MAX_GAMMA,)),
        ("shift", np.float64, (MAX_DOMAINS, MAX_GAMMA)),
    ]
)
"""An :class:`AcceptanceModel` in the form that :func:`propose` reads: weights of the two nearest persistence draws by
place between them, the parameters of the domains in compiled order, and the head's logits with STS applied."""

Logit = Annotated[float, Field(ge=-100.0, le=100.0)]
Spread = Annotated[float, Field(ge=0.0, le=10.0)]
Factor = Annotated[float, Field(gt=0.0, le=100.0)]


class Domain(BaseModel):
    """Latent quality of a kind of text, in logits.

    Attributes:
        mean: Mean quality in logits.
        ability: Standard deviation between requests, in logits.
        persistence: Standard deviation of the part that drifts along an output, in logits.
        variation: Standard deviation between tokens, in logits.
        knee: Quality in logits above which it grows ``stretch`` times as fast.
        stretch: Factor on quality above ``knee``, for text that is almost determined.
        offsets: Logits added at each draft position.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mean: Logit
    ability: Spread
    persistence: Spread
    variation: Spread
    knee: Logit
    stretch: Annotated[float, Field(ge=1.0, le=100.0)]
    offsets: tuple[Logit, ...]


class AcceptanceModel(BaseModel):
    """A drafter for a target: its domains, its confidence head and the STS temperatures of the head.

    ``slope``, ``bias``, ``sts`` and every domain's ``offsets`` have one value for each draft position.

    Attributes:
        target: Model that verifies the drafts.
        drafter: Name of the draft model.
        source: Publication or file of the figures.
        persistence_tokens: Output tokens between two draws of the quality that drifts along an output.
        slope: Factor of the confidence head on the quality, by draft position.
        bias: Logits that the confidence head adds, by draft position.
        sts: Temperatures of sequential temperature scaling, factors that divide the head's logits, by draft position.
        domains: Kinds of text by name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    target: str
    drafter: str
    source: str
    persistence_tokens: Annotated[int, Field(ge=1, le=MAX_PERSISTENCE_TOKENS)]
    slope: Annotated[tuple[Factor, ...], Field(min_length=1, max_length=MAX_GAMMA)]
    bias: tuple[Logit, ...]
    sts: tuple[Factor, ...]
    domains: Annotated[dict[str, Domain], Field(min_length=1)]

    @model_validator(mode="after")
    def _one_value_a_position(self) -> Self:
        lengths = {"bias": self.bias, "sts": self.sts} | {
            f"domains.{name}.offsets": domain.offsets for name, domain in self.domains.items()
        }
        for field, values in lengths.items():
            if len(values) != self.gamma:
                raise ValueError(f"give {field} {self.gamma} values, one for each value of slope")
        return self

    @property
    def gamma(self) -> int:
        """Longest draft block that the model describes."""
        return len(self.slope)

    def shifted(self, logits: float) -> AcceptanceModel:
        """The same drafter with ``logits`` added to its quality on every domain."""
        domains = {name: d.model_copy(update={"mean": d.mean + logits}) for name, d in self.domains.items()}
        return self.model_copy(update={"domains": domains})

    def with_temperatures(self, sts: Sequence[float]) -> AcceptanceModel:
        """The same drafter with other STS temperatures; ones leave the head uncalibrated.

        Raises:
            InputError: Not one positive number for each position.
        """
        return validated(AcceptanceModel, self.model_dump() | {"sts": tuple(sts)}, "acceptance model")

    def compile(self, domains: Sequence[str]) -> NDArray[np.void]:
        """Compile to an ``ACCEPTANCE`` record, shape (1,), in which domain ``d`` is ``domains[d]``.

        Raises:
            InputError: A domain that the model does not describe, or more than ``MAX_DOMAINS`` of them.
        """
        if len(domains) > MAX_DOMAINS:
            raise InputError(f"domains: {len(domains)} are too many; use at most {MAX_DOMAINS}")
        unknown = [name for name in domains if name not in self.domains]
        if unknown:
            known = ", ".join(self.domains)
            raise InputError(
                *(
                    f"domains: {name!r} is not known; use one of {known}{did_you_mean(name, self.domains)}"
                    for name in unknown
                )
            )
        compiled = np.zeros(1, ACCEPTANCE)
        record = compiled[0]
        record["scale"] = self.persistence_tokens
        record["per_token"] = 1.0 / self.persistence_tokens
        far = np.arange(self.persistence_tokens) / self.persistence_tokens
        # Division by the norm keeps the variance between two draws the same as at a draw.
        record["near"][: far.size] = (1.0 - far) / np.hypot(1.0 - far, far)
        record["far"][: far.size] = far / np.hypot(1.0 - far, far)
        gain = np.array(self.slope) / np.array(self.sts)
        record["gain"][: self.gamma] = gain
        for index, name in enumerate(domains):
            domain = self.domains[name]
            for field in ("mean", "ability", "persistence", "variation", "knee"):
                record[field][index] = getattr(domain, field)
            record["excess"][index] = domain.stretch - 1.0
            record["offset"][index, : self.gamma] = domain.offsets
            record["shift"][index, : self.gamma] = gain * domain.offsets + np.array(self.bias) / np.array(self.sts)
        return compiled


def load(path: str | Path) -> AcceptanceModel:
    """Read an acceptance model from YAML or JSON.

    Raises:
        InputError: The file cannot be read, or a field is missing, unknown or out of range.
    """
    check_kind(Path(path), "acceptance")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text ({error}); give a YAML or JSON file") from None
    return validated(AcceptanceModel, parse_yaml(text, path), path)


@cache
def packaged() -> AcceptanceModel:
    """DSpark on Qwen3-4B, fitted to the figures of arXiv 2607.05147 (``dspark_simulator.evidence.fit_acceptance``)."""
    with resources.as_file(resources.files("dspark_simulator") / PROFILE) as path:
        return load(path)


@njit(cache=True)
def quality(
    model: NDArray[np.void], key: np.uint64, domain: int, start: int, count: int, latent: NDArray[np.floating[Any]]
) -> None:
    """Write the latent quality (logits, without position offset) of output tokens ``start`` to ``start + count - 1``.

    Arguments as in :func:`propose`; ``latent`` is [>= count] of any float type.
    """
    m = model[0]
    # The half token keeps the product off the boundary; an integer division would cost a tenth of the call.
    node = int((start + 0.5) * m.per_token)
    place = start - node * m.scale
    here = m.persistence[domain] * normal(draw(key, node, PERSISTENCE))
    ahead = m.persistence[domain] * normal(draw(key, node + 1, PERSISTENCE))
    level = m.mean[domain] + m.ability[domain] * normal(draw(key, 0, ABILITY))
    variation = m.variation[domain]
    knee = m.knee[domain]
    excess = m.excess[domain]
    for k in range(count):
        if place == m.scale:
            place = 0
            node += 1
            here = ahead
            ahead = m.persistence[domain] * normal(draw(key, node + 1, PERSISTENCE))
        x = level + m.near[place] * here + m.far[place] * ahead + variation * normal(draw(key, start + k, VARIATION))
        latent[k] = x + excess * max(x - knee, 0.0)
        place += 1


@njit(cache=True)
def propose(
    model: NDArray[np.void], key: np.uint64, domain: int, start: int, gamma: int, survival: NDArray[np.float32]
) -> int:
    """Draft one block and determine how many of its drafts the target accepts.

    Args:
        model: [1], of dtype ``ACCEPTANCE``.
        key: The request's :func:`dspark_simulator.draws.stream`.
        domain: Index of the request's domain in compiled order.
        start: Output index of the first draft, in tokens.
        gamma: Drafts in the block, 0 to the ``gamma`` of the compiled model (not checked here).
        survival: [>= gamma], float32; receives the head's probability that each prefix is accepted.

    Returns:
        Number of leading drafts that the target accepts.
    """
    m = model[0]
    # Three passes with the latent quality stored in `survival` are faster than one pass that calls exp with many live
    # values, and so is exp in the single precision of `survival`.
    quality(model, key, domain, start, gamma, survival)
    accepted = 0
    while accepted < gamma:
        odds_against = math.exp(np.float32(-survival[accepted] - m.offset[domain, accepted]))
        if not uniform(draw(key, start + accepted, ACCEPT)) * (1.0 + odds_against) < 1.0:
            break
        accepted += 1
    reciprocal = 1.0
    for k in range(gamma):
        reciprocal *= 1.0 + math.exp(np.float32(-m.gain[k] * survival[k] - m.shift[domain, k]))
        survival[k] = 1.0 / reciprocal
    return accepted
