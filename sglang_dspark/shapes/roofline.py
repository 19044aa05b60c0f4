"""Times of the parts of a step, from a model's shape and a GPU's published peaks."""

from __future__ import annotations

from typing import Annotated, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sglang_dspark.policy.belief import MAX_TOKENS
from sglang_dspark.shapes import efficiencies
from sglang_dspark.shapes.efficiencies import Efficiencies
from sglang_dspark.shapes.gpus import GPUS, Format, Gpu, GpuName
from sglang_dspark.shapes.model import DraftShape, GroupedQuery, ModelShape

Floats = NDArray[np.float64]
Amount = TypeVar("Amount", float, NDArray[np.float64])
Efficiency = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_ACTIVATION_BYTES = 2.0
_LOGIT_BYTES = 4.0
_MLA_PREFILL_TOKENS = 8192


class Roofline(BaseModel):
    """Each part of a step takes the longer of moving its bytes and doing its multiplications; parts follow each other.

    The parts: dense weights with activations, routed experts (their bytes grow with the tokens, which touch more of
    them), LM head, all-reduces. Tensor parallelism splits weights and multiplications; latents and activations are
    whole on every GPU. On top come latencies that no published peak covers, as explicit fields. Left out: the draft's
    own attention over context.

    Attributes:
        gpu: Key of :data:`sglang_dspark.shapes.gpus.GPUS`.
        tp: Tensor-parallel GPUs.
        model: The target.
        draft: The draft model; None for a server without speculation, which drafts in no time.
        bandwidth_efficiency, flops_efficiency, layer_s, eager_layer_s: See :class:`Efficiencies`; None is what models
            of this kind reach.
        activation_passes: Times that a layer reads or writes its hidden state.
        allreduce_s: Latency of one all-reduce, of which a layer has two.
        markov_s: Latency of one step of the serial Markov head, of which a block has one a position.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    gpu: GpuName
    tp: int = Field(default=1, ge=1)
    model: ModelShape
    draft: DraftShape | None = None
    bandwidth_efficiency: Efficiency | None = None
    flops_efficiency: Efficiency | None = None
    layer_s: Seconds | None = None
    eager_layer_s: Seconds | None = None
    activation_passes: float = Field(default=16.0, ge=0, allow_inf_nan=False)
    allreduce_s: Seconds = 10e-6
    markov_s: Seconds = 50e-6

    @model_validator(mode="after")
    def _rates_exist(self) -> Self:
        rates = self.hardware.flops_per_s
        for wanted in (self.model.format, self.model.routed_format()):
            if wanted not in rates:
                raise ValueError(f"{wanted} is not a format of the {self.gpu}; choose one of {', '.join(rates)}")
        return self

    @property
    def hardware(self) -> Gpu:
        """The published figures of the GPU."""
        return GPUS[self.gpu]

    @property
    def reached(self) -> Efficiencies:
        """The efficiencies in force: those given, and for the others what models of this kind reach."""
        given = {name: getattr(self, name) for name in Efficiencies._fields}
        return efficiencies.of(self.model, self.hardware)._replace(
            **{name: x for name, x in given.items() if x is not None}
        )

    def context_s_per_token(self) -> float:
        """Seconds of decode attention for one context token of one request."""
        return self.move_s(self.model.attention.read_bytes_per_context_token(self.model.layers, self.tp))

    def prefill_context_s(self) -> float:
        """Seconds of prefill attention of one new token over one context token."""
        return self._multiply_s(self.model.attention.flops_per_pair(self.model.layers) / self.tp, "bf16")

    @property
    def captured_prefill_tokens(self) -> int:
        """The largest prefill step that SGLang 0.5.23 captures by default, in tokens.

        On CUDA a breakable graph runs all but attention (``default_prefill_backend``), up to the chunk size, or 8,192
        tokens with latent attention (``handle_gpu_memory_settings``). On ROCm prefill is eager.
        """
        if self.hardware.rocm:
            return 0
        return MAX_TOKENS if isinstance(self.model.attention, GroupedQuery) else _MLA_PREFILL_TOKENS

    def pass_s(self, tokens: Floats, layers: int, read_bytes_per_token: float) -> Floats:
        """Seconds of ``layers`` layers over ``tokens``, without head.

        Every token reads ``read_bytes_per_token`` of KV, whatever its context.
        """
        model = self.model
        dense, routed = model.dense_weights(layers) / self.tp, model.routed_weights(layers) / self.tp
        moved = (
            layers * model.hidden * model.streams * self.activation_passes * _ACTIVATION_BYTES + read_bytes_per_token
        )
        dense_s = np.maximum(
            self.move_s(dense * model.bytes_per_weight + tokens * moved),
            self._multiply_s(2 * tokens * dense, model.format),
        )
        touched = routed * model.feed_forward.touched_share(tokens)
        routed_s = np.maximum(
            self.move_s(touched * model.routed_bytes_per_weight()),
            self._multiply_s(2 * tokens * routed * model.feed_forward.active_share(), model.routed_format()),
        )
        total: Floats = dense_s + routed_s + layers * (self.reached.layer_s + 2 * self._allreduce_s(tokens))
        return total

    def head_s(self, tokens: Floats) -> Floats:
        weights = self.model.hidden * self.model.vocab / self.tp
        read_s = self.move_s(weights * self.model.head_bytes_per_weight)
        total: Floats = np.maximum(read_s, self._multiply_s(2 * tokens * weights, "bf16"))
        return total

    def _allreduce_s(self, tokens: Floats) -> Floats:
        """A ring: every GPU sends and receives all but its own share of the hidden states, twice."""
        if self.tp == 1:
            return np.zeros_like(tokens)
        sent = 2 * (self.tp - 1) / self.tp * tokens * self.model.hidden * _ACTIVATION_BYTES
        return self.allreduce_s + sent / (self.hardware.group_bytes_per_s(self.tp) * self.reached.bandwidth_efficiency)

    def draft_s(self, requests: Floats, gamma: int | None) -> Floats:
        """One pass of the backbone over ``gamma`` positions of each request, and as many serial steps of the head."""
        if self.draft is None:
            return np.zeros_like(requests)
        draft, model = self.draft, self.model
        positions = draft.block if gamma is None else gamma
        tokens = requests * positions
        markov = draft.markov_rank * model.vocab / self.tp
        # Each serial step reads the base logits of its position and writes them with the bias added.
        logits = requests * model.vocab / self.tp * 2 * _LOGIT_BYTES
        step_s = np.maximum(
            self.move_s(markov * model.head_bytes_per_weight + logits), self._multiply_s(2 * requests * markov, "bf16")
        )
        backbone_s = self.pass_s(tokens, draft.layers, 0.0) + self.head_s(tokens)
        total: Floats = backbone_s + positions * (self.markov_s + step_s)
        return total

    def inject_s_per_token(self) -> float:
        """Writing and reading the captured states, and projecting them; the projection is whole on every GPU."""
        if self.draft is None:
            return 0.0
        captured = self.draft.hidden_states * self.model.hidden
        multiply_s = self._multiply_s(2 * captured * self.model.hidden, self.model.format)
        return max(self.move_s(2 * captured * _ACTIVATION_BYTES), multiply_s)

    def move_s(self, moved: Amount) -> Amount:
        return moved / (self.hardware.bytes_per_s * self.reached.bandwidth_efficiency)

    def _multiply_s(self, operations: Amount, form: Format) -> Amount:
        return operations / (self.hardware.flops_per_s[form] * self.reached.flops_efficiency)
