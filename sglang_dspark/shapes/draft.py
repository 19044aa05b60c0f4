"""A DSpark draft by its ``config.json``, as SGLang 0.5.23 reads it (``dspark_config.parse_dspark_draft_config``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from sglang_dspark.errors import InputError
from sglang_dspark.shapes import config as hf_config
from sglang_dspark.shapes.config import KvDtype
from sglang_dspark.shapes.fields import mapping, short
from sglang_dspark.shapes.model import DraftShape, ModelShape

# Shape of DeepSpec's drafts of Qwen3 (deepseek-ai/DeepSpec, config): the default for a model without a published draft.
USUAL: Final = DraftShape(layers=5, block=7, hidden_states=5, markov_rank=256)
# Block of a draft that does not give it (``DEFAULT_DSPARK_GAMMA``).
DEFAULT_BLOCK: Final = 7
# Folder of a target's checkpoint that may hold its draft (``_DSPARK_DRAFT_SUBFOLDER``).
SUBFOLDER: Final = "dspark"
HEADS: Final = ("vanilla", "gated", "rnn")

# SGLang's classes: Qwen3's layers; DeepSeek-V4's, inside the target's checkpoint; MiniMax-M3's.
_QWEN3: Final = ("Qwen3DSparkModel", "LingDSparkModel", "DSparkDraftModel", "Lfm2DSparkDraftModel")
_DEEPSEEK: Final = ("DeepseekV4ForCausalLM", "DeepseekV4ForCausalLMDSpark")
_MINIMAX: Final = "DSparkMiniMaxDraftModel"
# DeepSpec's class for Gemma 4, which SGLang 0.5.23 lacks.
_GEMMA4: Final = "Gemma4DSparkModel"
# Each of these in a target's config says that its checkpoint holds a draft (``checkpoint_bundles_dspark_draft``).
_MARKS: Final = ("dspark_block_size", "dspark_markov_rank", "dspark_noise_token_id", "dspark_target_layer_ids")
# Fields that the layers of a draft are built from (``DFlashAttention``, ``DFlashMLP``).
_LAYER_FIELDS: Final = (
    "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size",
)  # fmt: skip
_GEMMA4_FIELDS: Final = ("global_head_dim", "num_global_key_value_heads", "attention_k_eq_v")
_REMEDY: Final = "give the config.json of a DSpark draft"


class Draft(NamedTuple):
    """A draft model and what a server needs to start with it.

    Attributes:
        path: Folder of the checkpoint, which is SGLang's draft model path.
        shape: Its sizes.
        confidence_head: Whether it has a confidence head: yes, unless the config disables it.
        markov_head: Kind of the Markov head.
        mask_token_id: Token of the positions to draft.
        target_layer_ids: Target layers whose outputs are injected; None if SGLang chooses them.
        bundled: It is part of the target's checkpoint: SGLang finds it without a draft model path.
        architecture: Class of the model.
        in_sglang: Whether SGLang 0.5.23 has this class.
    """

    path: Path
    shape: DraftShape
    confidence_head: bool
    markov_head: str
    mask_token_id: int
    target_layer_ids: tuple[int, ...] | None
    bundled: bool
    architecture: str
    in_sglang: bool


def read(path: Path, target: ModelShape, kv_dtype: KvDtype = "auto") -> Draft:
    """Read the draft of ``target``.

    Args:
        path: The draft's ``config.json`` or its folder.
        kv_dtype: Type of the KV cache of target and draft, where a server's flag gives it.

    Raises:
        InputError: Not readable, not the config of a DSpark draft, or that of a draft of another target.
    """
    file = _file(path)
    return parse(hf_config.loaded(file, _REMEDY), file, target, kv_dtype)


def bundled(path: Path, target: ModelShape, kv_dtype: KvDtype = "auto") -> Draft | None:
    """Read the draft inside a target's checkpoint, which SGLang uses if no other is given; None if there is none.

    Args:
        path: The target's ``config.json`` or its folder.
    """
    file = _file(path)
    config = hf_config.loaded(file, "give a model's config.json")
    if is_bundled(config):
        return parse(config, file, target, kv_dtype)
    inside = file.parent / SUBFOLDER / "config.json"
    return read(inside, target, kv_dtype)._replace(bundled=True) if inside.is_file() else None


def is_bundled(config: Mapping[str, Any]) -> bool:
    """Whether a target's config says that its checkpoint holds a DSpark draft."""
    return any(config.get(name) is not None for name in _MARKS)


def has_confidence_head(config: Mapping[str, Any]) -> bool:
    """Whether a draft has a confidence head: yes, unless its config disables it."""
    parts = [config, *(config.get(name) for name in ("dspark_config", "dflash_config", "text_config"))]
    flags = [part.get("enable_confidence_head") for part in parts if isinstance(part, Mapping)]
    return False not in flags or any(flags)


def parse(config: Mapping[str, Any], source: Path | str, target: ModelShape, kv_dtype: KvDtype = "auto") -> Draft:
    """The draft in the content of a config; see :func:`read`.

    Args:
        source: Name of the config in messages.
    """
    architecture = _architecture(config, source)
    fields = _Fields(_of_minimax(config, source) if architecture == _MINIMAX else config, source)
    inside = architecture in _DEEPSEEK
    ids = fields.target_layer_ids(target.layers)
    if inside:
        if ids is None:
            raise fields.missing("dspark_target_layer_ids")
        for name in ("dspark_n_routed_experts", "dspark_num_experts_per_tok"):
            if config.get(name):
                raise InputError(
                    f"{source}: {name}: {short(config[name])} experts unlike the target's are not supported"
                )
        layers = len(ids)
    else:
        layers = fields.required("num_hidden_layers", fields.text)
    shape = DraftShape(
        layers=layers,
        block=fields.block(),
        hidden_states=layers if ids is None else len(ids),
        markov_rank=fields.markov_rank(),
        anchor_drafts=bool(config.get("sample_from_anchor", True)),
        own=None if inside else _own_layers(fields, architecture, layers, target, kv_dtype),
    )
    return Draft(
        path=Path(source).parent,
        shape=shape,
        confidence_head=has_confidence_head(config),
        markov_head=fields.markov_head(),
        mask_token_id=fields.mask_token_id(target.vocab),
        target_layer_ids=ids,
        bundled=inside,
        architecture=architecture,
        in_sglang=architecture != _GEMMA4,
    )


def _file(path: Path) -> Path:
    return path / "config.json" if path.is_dir() else path


def _architecture(config: Mapping[str, Any], source: Path | str) -> str:
    """The class of a DSpark draft; other models are refused by what they are."""
    listed = config.get("architectures")
    name = str(listed[0]) if isinstance(listed, list) and listed else ""
    if "transformer_layer_config" in config:
        raise InputError(
            f"{source}: transformer_layer_config: a layout of vLLM's speculators, which SGLang 0.5.23 does not read;"
            " give a draft in DeepSpec's layout"
        )
    if name in (*_QWEN3, _MINIMAX, _GEMMA4) or (name in _DEEPSEEK and is_bundled(config)):
        return name
    text = f"{name} {config.get('model_type', '')} {config.get('speculators_model_type', '')}".lower()
    if "eagle" in text:
        what = "an EAGLE draft"
    elif "dflash" in text or "dflash_config" in config:
        what = "a DFlash draft"
    elif "mtp" in text or "nextn" in text:
        what = "a multi-token-prediction layer"
    elif "dspark" in text:
        what = "a DSpark draft that SGLang 0.5.23 has no class for"
    elif name.endswith(("ForCausalLM", "ForConditionalGeneration")):
        what = "a target model without a draft"
    else:
        what = "no DSpark draft"
    raise InputError(f"{source}: architectures: {short(listed)} is {what}; {_REMEDY}")


class _Fields:
    """Fields of a draft, at each of the places where SGLang looks for them, in that order."""

    def __init__(self, config: Mapping[str, Any], source: Path | str) -> None:
        self.source = source
        self.top = ("", config)
        self.text = ("text_config.", _inner(config, source, "text_config")) if "text_config" in config else self.top
        self.dflash = ("dflash_config.", _inner(config, source, "dflash_config"))
        self.dspark = ("dspark_config.", _inner(config, source, "dspark_config"))
        self.prefixed = is_bundled(config)

    def given(self, name: str, *places: tuple[str, Mapping[str, Any]]) -> tuple[str, Any]:
        """Name and value of a field at the first place that has it, null included."""
        return next(((where + name, fields[name]) for where, fields in places if name in fields), (name, None))

    def of_dspark(self, name: str, *places: tuple[str, Mapping[str, Any]]) -> tuple[str, Any]:
        """The same of a field that a target's config has with a prefix."""
        prefixed = "dspark_noise_token_id" if name == "mask_token_id" else f"dspark_{name}"
        value = self.top[1].get(prefixed)
        return self.given(name, *places) if value is None else (prefixed, value)

    def whole(self, name: str, value: Any, least: int = 1) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(
                f"{self.source}: {name}: {short(value)} is not valid; give a whole number of at least {least}"
            )
        return value

    def required(self, name: str, *places: tuple[str, Mapping[str, Any]]) -> int:
        where, value = self.given(name, *places)
        if value is None:
            raise self.missing(where)
        return self.whole(where, value)

    def missing(self, name: str) -> InputError:
        return InputError(f"{self.source}: {name}: missing; {_REMEDY}")

    def block(self) -> int:
        name, value = self.of_dspark("block_size", self.dflash, self.top)
        return DEFAULT_BLOCK if value is None else self.whole(name, value)

    def markov_rank(self) -> int:
        name, value = self.of_dspark("markov_rank", self.dspark, self.dflash, self.text, self.top)
        if value is None or (value == 0 and not isinstance(value, bool)):
            held = "missing" if value is None else "0"
            raise InputError(f"{self.source}: {name}: {held}, as in a DFlash draft; {_REMEDY}")
        return self.whole(name, value)

    def markov_head(self) -> str:
        name, value = self.of_dspark("markov_head_type", self.dspark, self.dflash, self.text, self.top)
        if value is None and self.prefixed:
            return HEADS[0]
        if value is None:
            raise self.missing(name)
        if str(value).lower() not in HEADS:
            raise InputError(f"{self.source}: {name}: {short(value)} is not valid; use one of {', '.join(HEADS)}")
        return str(value).lower()

    def mask_token_id(self, vocab: int) -> int:
        name, value = self.of_dspark("mask_token_id", self.dspark, self.dflash, self.text, self.top)
        if value is None:
            raise self.missing(name)
        if self.whole(name, value, least=0) >= vocab:
            raise self.of_another(name, value, f"a vocabulary of {vocab:,}")
        return int(value)

    def target_layer_ids(self, target_layers: int) -> tuple[int, ...] | None:
        name, value = self.of_dspark("target_layer_ids", self.dflash, self.top)
        if value is None:
            return None
        if not isinstance(value, list) or not value:
            raise InputError(f"{self.source}: {name}: {short(value)} is not valid; give a list of layers")
        ids = tuple(self.whole(name, one, least=0) for one in value)
        if max(ids) >= target_layers:
            raise self.of_another(name, value, f"{target_layers} layers")
        return ids

    def of_another(self, name: str, value: Any, has: str) -> InputError:
        return InputError(f"{self.source}: {name}: {short(value)}, but the target has {has}; give this target's draft")


def _inner(config: Mapping[str, Any], source: Path | str, name: str) -> Mapping[str, Any]:
    value = config.get(name)
    return {} if value is None else mapping(source, name, value)


def _of_minimax(config: Mapping[str, Any], source: Path | str) -> Mapping[str, Any]:
    """A draft of MiniMax-M3 with the fields of other drafts (``minimax_vl.configure_minimax_m3_dspark``)."""
    text = {**(_inner(config, source, "text_config") or config)}
    text |= {name: value for name, value in config.items() if name.startswith("dspark_")}
    dspark, dflash = _inner(text, source, "dspark_config"), _inner(text, source, "dflash_config")
    if not dspark.get("use_dense_ffn", text.get("dspark_use_dense_ffn", False)):
        raise InputError(f"{source}: dspark_config.use_dense_ffn: not true; SGLang 0.5.23 serves dense layers only")
    fields = _Fields(text, source)
    for name in ("block_size", "markov_rank", "noise_token_id"):
        if text.get(f"dspark_{name}") is None:
            raise fields.missing(f"dspark_{name}")
    text["num_hidden_layers"] = fields.required("num_hidden_layers", fields.dflash)
    text.setdefault("ffn_hidden_size", text.get("dspark_ffn_hidden_size"))
    text["intermediate_size"] = fields.required("ffn_hidden_size", fields.dspark, fields.top)
    # Its ids are those of ``dflash_config``, whatever the prefixed field holds.
    text["dspark_target_layer_ids"] = dflash.get("target_layer_ids")
    if text["dspark_target_layer_ids"] is None:
        raise fields.missing("dflash_config.target_layer_ids")
    text["quantization_config"] = config.get("quantization_config")
    return text


def _own_layers(
    fields: _Fields, architecture: str, layers: int, target: ModelShape, kv_dtype: KvDtype
) -> ModelShape | None:
    """The layers that SGLang builds, whole contexts of KV included; None if they are like the target's."""
    wide = _LAYER_FIELDS + (_GEMMA4_FIELDS if architecture == _GEMMA4 else ())
    content = {name: fields.given(name, fields.text, fields.top)[1] for name in (*wide, "quantization_config")}
    content = {name: value for name, value in content.items() if value is not None}
    content |= {"num_hidden_layers": layers, "tie_word_embeddings": False}
    own = hf_config.shape(content, fields.source, kv_dtype)
    for name, has, needs in (("hidden_size", own.hidden, target.hidden), ("vocab_size", own.vocab, target.vocab)):
        if has != needs:
            raise fields.of_another(name, has, f"{needs:,}")
    like = DraftShape(layers=layers, block=1, hidden_states=1, markov_rank=1).backbone(target)
    parts = ("attention", "feed_forward", "format", "bytes_per_weight")
    return None if all(getattr(own, one) == getattr(like, one) for one in parts) else own
