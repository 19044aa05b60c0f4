"""Roofline: times of the parts of a step, from a model's shape and a GPU's published peaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from sglang_dspark.policy.belief import MAX_TOKENS
from sglang_dspark.shapes import efficiencies
from sglang_dspark.shapes.base import Stored
from sglang_dspark.shapes.efficiencies import Efficiencies
from sglang_dspark.shapes.gpus import GPUS, Arithmetic, Gpu, GpuName
from sglang_dspark.shapes.known import known, unknown
from sglang_dspark.shapes.model import DraftShape, ModelShape, total_bytes

Floats = NDArray[np.float64]
Amount = TypeVar("Amount", float, NDArray[np.float64])
Efficiency = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_ACTIVATION_BYTES = 2.0
_LOGIT_BYTES = 4.0
_MLA_PREFILL_TOKENS = 8192


class Roofline(BaseModel):
    """Step times in which each part takes the longer of its memory traffic and its multiplications.

    The parts are sequential: dense weights with activations, routed experts (more tokens touch more of their bytes), LM
    head, all-reduces. Tensor parallelism splits weights and multiplications; latents and activations are whole on every
    GPU. Weights in a format that the GPU cannot multiply are read as stored and multiplied in bf16. Explicit fields add
    latencies that no published peak covers. Omitted: the draft's own attention over context, and prefill attention
    within sliding windows and recurrences.

    Attributes:
        gpu: Key of :data:`sglang_dspark.shapes.gpus.GPUS`.
        tp: Tensor-parallel GPUs.
        model: The target, or the name of a known one.
        draft: Its draft model, or the name of a known target; None without speculation, where drafting takes no time.
        bandwidth_efficiency: Reached share of memory and fabric bandwidth; if None, that of this kind of model.
        flops_efficiency: Reached share of the dense rates; if None, that of this kind of model.
        layer_s: Seconds of one captured layer in addition to its work: kernel starts and tails; if None, those of this
            kind of model.
        eager_layer_s: Seconds of host time to launch one layer eagerly, a lower bound of eager steps; likewise.
        activation_passes: Number of times that a layer reads or writes its hidden state.
        allreduce_s: Latency in seconds of one of the two all-reduces of a layer.
        markov_s: Latency in seconds of one step of the serial Markov head, one per drafted position.
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

    @field_validator("model", "draft", mode="before", json_schema_input_type=ModelShape | DraftShape | str | None)
    @classmethod
    def _by_name(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        shapes = known(value)
        if shapes is None:
            raise unknown(value, str(info.field_name))
        return shapes.model if info.field_name == "model" else shapes.assumed_draft

    @property
    def hardware(self) -> Gpu:
        """Published figures of the GPU."""
        return GPUS[self.gpu]

    @property
    def reached(self) -> Efficiencies:
        """The given efficiencies, completed by those of this kind of model."""
        given = {name: getattr(self, name) for name in Efficiencies._fields}
        return efficiencies.of(self.model, self.hardware)._replace(
            **{name: x for name, x in given.items() if x is not None}
        )

    def context_s_per_token(self) -> float:
        """Seconds of decode attention per context token of a request."""
        return self.move_s(sum(one.read_bytes_per_context_token(self.tp) for one in self.model.attention))

    def prefill_context_s(self) -> float:
        """Seconds of prefill attention of one new token over one context token."""
        return self._multiply_s(sum(one.flops_per_pair() for one in self.model.attention) / self.tp, "bf16")

    @property
    def captured_prefill_tokens(self) -> int:
        """Largest prefill step that SGLang 0.5.23 captures by default, in tokens.

        On CUDA a breakable graph runs all but attention (``default_prefill_backend``), up to the chunk size, or 8,192
        tokens with latent attention (``handle_gpu_memory_settings``). On ROCm prefill is eager.
        """
        if self.hardware.rocm:
            return 0
        return _MLA_PREFILL_TOKENS if any(one.latent for one in self.model.attention) else MAX_TOKENS

    def verify_s(self, tokens: Floats) -> Floats:
        """Seconds of the target's layers over ``tokens`` of decoding requests, without head."""
        attention = self.model.attention
        read_bytes = sum(one.fixed_read_bytes(self.tp) + one.decode_read_bytes(self.tp) for one in attention)
        return self._pass_s(self.model, tokens, read_bytes)

    def prefill_s(self, tokens: Floats) -> Floats:
        """Seconds of the target's layers over ``tokens`` of prompts, without head."""
        return self._pass_s(self.model, tokens, sum(one.fixed_read_bytes(self.tp) for one in self.model.attention))

    def experts_s(self) -> float:
        """Seconds of reading all routed experts."""
        return self.move_s(total_bytes(self.model.routed_weights()) / self.tp)

    def _pass_s(self, model: ModelShape, tokens: Floats, read_bytes_per_token: float) -> Floats:
        """Seconds of the layers of ``model`` over ``tokens``.

        Every token reads ``read_bytes_per_token`` of KV, independently of its context.
        """
        dense, routed = model.dense_weights(), model.routed_weights()
        moved = model.depth * model.hidden * model.streams * self.activation_passes * _ACTIVATION_BYTES
        dense_s = np.maximum(
            self.move_s(total_bytes(dense) / self.tp + tokens * (moved + read_bytes_per_token)),
            self._weights_s(dense, tokens),
        )
        routed_s = np.maximum(
            self.move_s(total_bytes(routed) / self.tp * model.touched_share(tokens)),
            self._weights_s(routed, tokens * model.active_share()),
        )
        total: Floats = dense_s + routed_s + model.depth * (self.reached.layer_s + 2 * self._allreduce_s(tokens))
        return total

    def _weights_s(self, weights: Mapping[Stored, float], tokens: Floats) -> Floats:
        """Seconds of multiplying ``tokens`` by weights."""
        seconds = [self._multiply_s(2 * tokens * count / self.tp, stored.format) for stored, count in weights.items()]
        total: Floats = np.sum(seconds, axis=0) if seconds else np.zeros_like(tokens)
        return total

    def head_s(self, tokens: Floats) -> Floats:
        weights = self.model.hidden * self.model.vocab / self.tp
        read_s = self.move_s(weights * self.model.head_bytes_per_weight)
        total: Floats = np.maximum(read_s, self._multiply_s(2 * tokens * weights, "bf16"))
        return total

    def _allreduce_s(self, tokens: Floats) -> Floats:
        """Ring all-reduce: every GPU sends and receives all but its own share of the hidden states, twice."""
        if self.tp == 1:
            return np.zeros_like(tokens)
        sent = 2 * (self.tp - 1) / self.tp * tokens * self.model.hidden * _ACTIVATION_BYTES
        return self.allreduce_s + sent / (self.hardware.group_bytes_per_s(self.tp) * self.reached.bandwidth_efficiency)

    def draft_s(self, requests: Floats, gamma: int | None) -> Floats:
        """Seconds of one backbone pass over ``gamma`` positions of each request and ``gamma`` serial head steps."""
        if self.draft is None:
            return np.zeros_like(requests)
        draft, model = self.draft, self.model
        positions = draft.block if gamma is None else gamma
        tokens = requests * (positions + (not draft.anchor_drafts))
        markov = draft.markov_rank * model.vocab / self.tp
        # Each serial step reads the base logits of its position and writes them with the bias added.
        logits = requests * model.vocab / self.tp * 2 * _LOGIT_BYTES
        step_s = np.maximum(
            self.move_s(markov * model.head_bytes_per_weight + logits), self._multiply_s(2 * requests * markov, "bf16")
        )
        backbone_s = self._pass_s(draft.backbone(model), tokens, 0.0) + self.head_s(tokens)
        total: Floats = backbone_s + positions * (self.markov_s + step_s)
        return total

    def inject_s_per_token(self) -> float:
        """Seconds per token to write, read and project the captured states; the projection is whole on every GPU."""
        if self.draft is None:
            return 0.0
        captured = self.draft.hidden_states * self.model.hidden
        multiply_s = self._multiply_s(2 * captured * self.model.hidden, self.model.format)
        return max(self.move_s(2 * captured * _ACTIVATION_BYTES), multiply_s)

    def move_s(self, moved: Amount) -> Amount:
        return moved / (self.hardware.bytes_per_s * self.reached.bandwidth_efficiency)

    def _multiply_s(self, operations: Amount, form: Arithmetic) -> Amount:
        return operations / (self.hardware.rate(form) * self.reached.flops_efficiency)
