"""Check a draft's files before its weights load: whether it is a DSpark draft, and has a confidence head.

SGLang builds the head unless the checkpoint disables it, and stops after loading where its weights are missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sglang_dspark.errors import InputError
from sglang_dspark.serving.resolved_server import option
from sglang_dspark.serving.support import Obstacle
from sglang_dspark.shapes.draft import has_confidence_head


def check_path(cfg: Any, field: str = "speculative_draft_model_path") -> None:
    """Refuse a checkpoint that can be neither in a folder nor on a hub; SGLang's own error lacks the flag's name.

    Args:
        cfg: SGLang's flags, resolved or not.
        field: The flag with its path.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    given = getattr(cfg, field)
    if given is None or ":" in given or ".gguf" in given or Path(given).exists():
        return
    try:
        try_to_load_from_cache(given, "config.json")
    except HFValidationError as error:
        raise InputError(f"{option(field)}: {given} is not here; give a folder or a name on the hub") from error


def headless(cfg: Any) -> tuple[Obstacle, ...]:
    """Obstacles to steering by this draft's confidences: it has none.

    Args:
        cfg: SGLang's flags once the draft's path is resolved, which is the target's where that holds both.

    Raises:
        InputError: Its configuration is here and cannot be read, or is not that of a DSpark draft.
    """
    path = _config(cfg)
    if path is None:
        return ()
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a DSpark checkpoint") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no fields; give a DSpark checkpoint")
    _check_markov(path, config)
    if not has_confidence_head(config):
        return (Obstacle(f"{path}: enable_confidence_head", "the draft has no confidences", False),)
    names = _tensor_names(path.parent)
    if names and not any("confidence_head." in name for name in names):
        return (Obstacle(str(path.parent), "holds no weights of a confidence head", False),)
    return ()


def _check_markov(path: Path, config: dict[str, Any]) -> None:
    """Refuse the configuration of a model that is not a DSpark draft, as SGLang does once it has loaded both."""
    from sglang.srt.speculative.dspark_components.dspark_config import parse_dspark_draft_config

    if config.get("architectures") == ["DSparkMiniMaxDraftModel"]:
        return  # SGLang rewrites this one before it reads it.
    try:
        draft = parse_dspark_draft_config(draft_hf_config=config)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}; give a DSpark checkpoint") from error
    if not draft.require_markov() or draft.mask_token_id is None:
        field = "mask_token_id" if draft.require_markov() else "markov_rank"
        raise InputError(f"{path}: {field}: missing, so it is no DSpark draft; give a DSpark checkpoint")


def _config(cfg: Any) -> Path | None:
    """The draft's configuration, in its folder or where a hub's files are kept; None where it is in neither."""
    given = cfg.speculative_draft_model_path
    if given is None:
        return None
    path = Path(given) / "config.json"
    if path.is_file():
        return path
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    # SGLang keeps a model's weights in the download folder, but its configuration where the hub keeps files.
    for folder in dict.fromkeys((cfg.download_dir, None)):
        try:
            kept = try_to_load_from_cache(
                given, "config.json", cache_dir=folder, revision=cfg.speculative_draft_model_revision
            )
        except HFValidationError:
            return None
        if isinstance(kept, str):
            return Path(kept)
    return None


def _tensor_names(folder: Path) -> list[str]:
    """The tensors of a checkpoint, by its index or the head of its only file; none where neither can be read."""
    try:
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        files = list(folder.glob("*.safetensors"))
        if len(files) != 1:
            return []
        with files[0].open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return list(json.loads(file.read(min(size, 1 << 28))))
    except (OSError, ValueError, KeyError, TypeError):
        return []  # SGLang reports the error when it loads the weights.
