"""The target model as a drafter uses it: hidden states, embedding and output head.

Letters in shapes: B texts, S tokens, H hidden size, L layers captured, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sglang_dspark import demo
from sglang_dspark.errors import InputError

DEMO = "demo"
"""The name of the packaged target."""


class TargetStates(NamedTuple):
    """Hidden states of the target for a batch of texts."""

    features: Tensor
    """[B, S, L * H], outputs of the requested layers, concatenated."""

    last: Tensor
    """[B, S, H], after the final norm: the input of the output head."""


class Target:
    """A frozen causal language model from transformers."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        decoder: Any = self.model.get_decoder()
        # Multimodal models wrap the text model once more.
        self.decoder: Any = getattr(decoder, "language_model", decoder)
        self.config: Any = model.config.get_text_config()
        self.layers: nn.ModuleList = self.decoder.layers
        # generate() passes a slice of [B, S, H]; for a non-contiguous input PyTorch copies the weight for every text.
        self.model.get_output_embeddings().register_forward_pre_hook(lambda _, given: given[0].contiguous())

    @classmethod
    def load(cls, name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Target:
        """Load a model by its folder, its name on the hub, or ``demo`` for the packaged one.

        Raises:
            InputError: The model does not exist, or transformers cannot load it.
        """
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(resolve(name), dtype=dtype, attn_implementation="sdpa")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"target: {name}: cannot be loaded ({_first_line(error)})") from error
        return cls(model.to(torch.device(device)))

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def embedding(self) -> Tensor:
        """The input embedding, [V, H]."""
        weight: Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def head(self) -> Tensor:
        """The weight of the output head, [V, H]."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def stop_tokens(self) -> frozenset[int]:
        """Return the tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])

    @torch.no_grad()
    def hidden_states(self, tokens: Tensor, layers: Sequence[int]) -> TargetStates:
        """Run one pass over texts.

        Args:
            tokens: [B, S], padded on the right, where causal attention does not reach.
            layers: The layers, from 0, whose outputs to return.
        """
        outputs: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            def hook(module: nn.Module, arguments: object, output: Any) -> None:
                outputs[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        handles = [self.layers[layer].register_forward_hook(keep(layer)) for layer in layers]
        try:
            last = self.decoder(input_ids=tokens, use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        features = torch.cat([outputs[layer] for layer in layers], dim=-1) if layers else last[..., :0]
        return TargetStates(features, last)

    @torch.no_grad()
    def logits(self, last: Tensor) -> Tensor:
        """Compute logits [..., V] from :attr:`TargetStates.last`."""
        logits: Tensor = self.model.get_output_embeddings()(last)
        bound = getattr(self.config, "final_logit_softcapping", None)
        return logits if bound is None else torch.tanh(logits / bound) * bound


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a target, named as in :meth:`Target.load`.

    Raises:
        InputError: The tokenizer does not exist or cannot be loaded.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(resolve(name))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"target: {name}: its tokenizer cannot be loaded ({_first_line(error)})") from error
    return tokenizer


def check_layers_exist(layers: Sequence[int], target: Target) -> None:
    """Raise InputError unless features can be taken from these layers of the target."""
    count = len(target.layers)
    if not layers or min(layers) < 0 or max(layers) >= count - 1 or list(layers) != sorted(set(layers)):
        raise InputError(
            f"layers: {list(layers)} cannot be taken from a target of {count} layers; name rising ones from 0 to"
            f" {count - 2}"
        )


def check_tokenizer(tokens: int, vocabulary: int, source: str) -> None:
    """Raise InputError unless every token of a tokenizer has a row in the embedding."""
    if tokens > vocabulary:
        raise InputError(
            f"{source}: vocab_size: {vocabulary} is below the tokenizer's {tokens} tokens; give the tokenizer that the"
            " model was trained with"
        )


def resolve(name: str) -> str | Path:
    """Return the folder or hub name behind a target's name."""
    return demo.TARGET if name == DEMO else name


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
