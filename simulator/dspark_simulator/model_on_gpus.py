"""A model on GPUs that nobody has measured: the fields of a scenario from the model's shape and the GPUs' peaks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from dspark_simulator.acceptance_model import packaged
from dspark_simulator.deployment import Memory
from dspark_simulator.server import Server
from sglang_dspark.errors import InputError
from sglang_dspark.shapes import config as hf_config
from sglang_dspark.shapes import draft as drafts
from sglang_dspark.shapes.config import KvDtype
from sglang_dspark.shapes.gpus import GPUS, GpuName
from sglang_dspark.shapes.known import Known, known, unknown
from sglang_dspark.shapes.kv_pool import PoolFlags, default_flags, kv_capacity_tokens, most_running
from sglang_dspark.shapes.model import DraftShape, ModelShape

# What two configs of one model share, however they are stored.
_SAME: Final = ("layers", "hidden", "vocab")
# Share of the memory for weights and KV where none is stated.
USUAL_MEM_FRACTION: Final = 0.85
# Range of live steps around a roofline at the usual efficiencies.
ROOFLINE_LIVE: Final = {"overhead_s": (0.0, 0.003), "slope": (0.85, 1.15)}


class Checkpoints(NamedTuple):
    """A target and its draft: their shapes, and where SGLang finds them.

    Attributes:
        name: Name of the model in reports: its Hugging Face id where that is known.
        path: What SGLang loads as model; None where only the shape is known.
        draft_path: The same of the draft, which is the model's own where its checkpoint holds the draft; None where
            unknown.
        notes: Assumptions about the draft, as sentences.
    """

    name: str
    path: str | None
    model: ModelShape
    draft_path: str | None
    draft: DraftShape
    notes: tuple[str, ...]


class ModelOnGpus(BaseModel):
    """A model, its draft and the GPUs of a replica.

    Attributes:
        model: Name of a model with a known shape, or the folder of a checkpoint; with ``config``, any name.
        config: The ``config.json`` of the model.
        gpu: Kind of the GPUs.
        tp: Tensor-parallel GPUs of a replica.
        kv_cache_dtype: Data type of the KV cache (SGLang's ``--kv-cache-dtype``); ``auto`` is that of the checkpoint.
        draft: Shape of the DSpark draft, or its ``config.json`` or folder; by default the draft inside the checkpoint
            or published for the model, else DeepSpec's draft of Qwen3.
        mem_fraction: Share of the memory for weights and KV (SGLang's ``--mem-fraction-static``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str | None = None
    config: Path | None = None
    gpu: GpuName | None = None
    tp: Annotated[int, Field(ge=1, le=64)] = 1
    kv_cache_dtype: KvDtype = "auto"
    draft: DraftShape | Path | None = None
    mem_fraction: Annotated[float, Field(gt=0, lt=1)] = USUAL_MEM_FRACTION

    def checkpoints(self) -> Checkpoints:
        """The model and its draft.

        Raises:
            InputError: The model is not known by name, or a config cannot be read as a shape.
        """
        shapes = None if self.model is None else known(self.model, self.kv_cache_dtype)
        file = self._config()
        if file is not None:
            model = hf_config.read(file, self.kv_cache_dtype)
            name, path = self._names(file)
            if shapes is not None and any(getattr(model, one) != getattr(shapes.model, one) for one in _SAME):
                raise InputError(
                    f"config: {file} is not {self.model}, whose {', '.join(_SAME)} are "
                    f"{', '.join(str(getattr(shapes.model, one)) for one in _SAME)}; give the model's own name or path"
                )
        elif shapes is not None:
            name, path, model = shapes.id, shapes.id, shapes.model
        else:
            raise unknown(self.model or "")
        draft_path, draft, notes = self._draft(name, path, model, file, shapes)
        return Checkpoints(name, path, model, draft_path, draft, notes)

    def _config(self) -> Path | None:
        """The config.json that gives the shape; None for a model that is known by name alone."""
        inside = None if self.model is None else Path(self.model) / "config.json"
        if self.config is not None and self.config.is_dir():
            return self.config / "config.json"
        return self.config or (inside if inside is not None and inside.is_file() else None)

    def _names(self, file: Path) -> tuple[str, str | None]:
        """Name and path of a model whose shape is in ``file``; a path is a name given or a folder with weights."""
        folder = file.parent.absolute()
        if self.model is not None and not Path(self.model).is_dir():
            return self.model, self.model if "/" in self.model else None
        label = folder.name if file.name == "config.json" else file.stem
        return label, str(folder) if self.model is not None or any(folder.glob("*.safetensors")) else None

    def _draft(
        self, name: str, path: str | None, model: ModelShape, file: Path | None, shapes: Known | None
    ) -> tuple[str | None, DraftShape, tuple[str, ...]]:
        """Path, shape and assumptions of the draft of the model ``name`` at ``path``."""
        if isinstance(self.draft, DraftShape):
            return None, self.draft, ()
        if self.draft is not None:
            own = drafts.read(self.draft, model, self.kv_cache_dtype)
            folder = str(own.path.absolute()) if any(own.path.glob("*.safetensors")) else None
            return folder, own.shape, _notes(own.confidence_head, own.in_sglang, own.shape)
        bundled = None if file is None else drafts.bundled(file, model, self.kv_cache_dtype)
        if bundled is not None:
            return path, bundled.shape, _notes(bundled.confidence_head, bundled.in_sglang, bundled.shape)
        if shapes is not None and shapes.draft is not None:
            notes = _notes(shapes.confidence_head, shapes.draft_in_sglang, shapes.draft)
            return path if shapes.bundled else shapes.draft_id, shapes.draft, notes
        usual = drafts.USUAL
        assumed = (
            f"No DSpark draft of {name} is known: one like DeepSpec's for Qwen3 is assumed, {usual.layers} layers with "
            f"a block of {usual.block}."
        )
        return None, usual, (assumed,)

    def fields(self, flags: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a scenario of one replica, without its name and traffic.

        Args:
            flags: Fields of the server. The running limit is lowered to the requests whose states fit.

        Raises:
            InputError: As :meth:`checkpoints`, weights that do not fit the GPUs, and what SGLang refuses: heads that
                ``tp`` does not divide, an FP4 KV cache (``handle_kv4_compatibility``).
        """
        assert self.gpu is not None
        if self.kv_cache_dtype == "fp4":
            raise InputError(
                "kv_cache_dtype: 'fp4' is not served: SGLang 0.5.23 has NVFP4 KV on Blackwell only, and there not "
                "under DSPARK; give fp8 or bf16"
            )
        found = self.checkpoints()
        block = min(found.draft.block, packaged().gamma)
        gpu = GPUS[self.gpu]
        _check_split(found, self.tp)
        usual = default_flags(gpu, self.tp)
        server = {
            "gamma": block,
            "capture_requests": usual.captured_requests,
            "chunked_prefill_size": usual.chunked_prefill_size,
            **flags,
        }
        limit = most_running(gpu, self.tp, self.mem_fraction, found.model, found.draft, block)
        description = self._description(found)
        if limit is not None and limit < Server.model_validate(server).max_running_requests:
            server["max_running_requests"] = max(1, limit)
            description += f" At most {server['max_running_requests']} requests run: the states of more do not fit."
        pool = Server.model_validate(server).pool_flags()
        pools = memory(self.gpu, self.tp, self.mem_fraction, found.model, found.draft, pool, found.name)
        return {
            "description": description,
            "model": found.name,
            "model_path": found.path,
            "draft_path": found.draft_path,
            "kv_cache_dtype": self.kv_cache_dtype,
            "mem_fraction_static": self.mem_fraction if "mem_fraction" in self.model_fields_set else None,
            "hardware": f"{self.tp}x{self.gpu}" if self.tp > 1 else self.gpu,
            "gpus": self.tp,
            "drafter_gamma": block,
            "server": server,
            "memory": {
                "kv_tokens": pools.kv_tokens,
                "kv_tokens_without_draft": pools.kv_tokens_without_draft,
            },
            "cost": {
                "kind": "roofline",
                "gpu": self.gpu,
                "tp": self.tp,
                "model": found.model.model_dump(),
                "draft": found.draft.model_dump(),
            },
            "live": ROOFLINE_LIVE,
        }

    def _description(self, found: Checkpoints) -> str:
        """What the step times, the pool and the draft rest on."""
        assert self.gpu is not None
        sizes = found.model.describe().partition(";")[0]
        sentences = [
            f"{found.name} on {self.tp}x{self.gpu}, not measured. Step times: a roofline of the model's shape "
            f"({sizes}) with efficiencies fitted to published results.",
            f"KV pool: {self.mem_fraction:g} of {GPUS[self.gpu].memory_bytes / 1e9:g} GB a GPU less weights and "
            "request slots.",
            *found.notes,
        ]
        return " ".join(sentences)


def _check_split(found: Checkpoints, tp: int) -> None:
    """Refuse a tensor parallelism that the heads of the model do not allow."""
    if not found.model.splits(tp):
        allowed = ", ".join(str(n) for n in range(1, 65) if found.model.splits(n))
        raise InputError(f"tp: {tp} does not divide the attention heads of {found.name}; give one of {allowed}")


def memory(
    gpu: str, tp: int, fraction: float, model: ModelShape, draft: DraftShape, flags: PoolFlags, name: str
) -> Memory:
    """KV pools of a replica with ``flags``.

    Raises:
        InputError: The weights and the request slots do not fit.
    """
    device = GPUS[gpu]

    def pools(gpus: int) -> Memory | None:
        with_draft, without = (kv_capacity_tokens(device, gpus, fraction, model, d, flags) for d in (draft, None))
        if min(with_draft, without) < 1:
            return None
        return Memory(kv_tokens=with_draft, kv_tokens_without_draft=without, at=flags)

    here = pools(tp)
    if here is None:
        needed = model.weight_bytes() + draft.weight_bytes(model)
        fits = next((n for n in (2, 4, 8, 16, 32, 64) if n > tp and model.splits(n) and pools(n)), None)
        remedy = f"give tp {fits} or more" if fits else "choose a GPU with more memory"
        raise InputError(
            f"{name}: weights of {needed / 1e9:.0f} GB and {flags.max_running_requests} request slots do not fit {tp} "
            f"{gpu} of {device.memory_bytes / 1e9:.0f} GB at mem_fraction {fraction}; {remedy}"
        )
    return here


def _notes(confidence_head: bool, in_sglang: bool, draft: DraftShape) -> tuple[str, ...]:
    """What a user of a draft must know."""
    notes = []
    if not confidence_head:
        notes.append("The draft has no confidence head: SGLang verifies its whole blocks, whatever a policy says.")
    if not in_sglang:
        notes.append("SGLang 0.5.23 cannot load this draft: it has no class for it.")
    if draft.block > packaged().gamma:
        notes.append(
            f"The draft has a block of {draft.block}; acceptance is known for {packaged().gamma} positions, so no more "
            "are drafted."
        )
    return tuple(notes)
