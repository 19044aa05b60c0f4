"""Whether a draft has a confidence head, by its files and before its weights load.

SGLang builds the head unless the checkpoint says otherwise, and stops after loading where its weights are missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sglang_dspark.errors import InputError
from sglang_dspark.serving.support import Obstacle


def headless(cfg: Any) -> tuple[Obstacle, ...]:
    """What keeps a policy from steering by this draft's confidences: it has none.

    Args:
        cfg: SGLang's flags once the draft's path is resolved, which is the target's where that holds both.

    Raises:
        InputError: Its configuration is here and cannot be read.
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
    parts = [config, *(config.get(key) for key in ("dspark_config", "dflash_config"))]
    fields = [part.get("enable_confidence_head") for part in parts if isinstance(part, dict)]
    if False in fields and not any(fields):
        return (Obstacle(f"{path}: enable_confidence_head", "the draft has no confidences", False),)
    names = _tensor_names(path.parent)
    if names and not any("confidence_head." in name for name in names):
        return (Obstacle(str(path.parent), "holds no weights of a confidence head", False),)
    return ()


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
            return None  # A folder that is not there, which SGLang says.
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
        return []  # SGLang says what is wrong with it when it loads it.
