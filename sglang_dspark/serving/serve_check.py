"""Check whether a server could follow a policy: SGLang resolves its flags, and no weights are loaded."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from sglang_dspark.cpu_engine import early, torchvision_stand_in
from sglang_dspark.errors import InputError
from sglang_dspark.serving import draft_checkpoint, launch, settings, support
from sglang_dspark.serving.resolved_server import ResolvedServer, option
from sglang_dspark.serving.support import Choice

# By compute capability and by name.
GPUS: Final = {
    "sm_80": (8, 0),
    "sm_86": (8, 6),
    "sm_89": (8, 9),
    "sm_90": (9, 0),
    "sm_100": (10, 0),
    "sm_103": (10, 3),
    "sm_120": (12, 0),
    "a100": (8, 0),
    "a10": (8, 6),
    "l40s": (8, 9),
    "h100": (9, 0),
    "h200": (9, 0),
    "b200": (10, 0),
    "b300": (10, 3),
    "rtx-pro-6000": (12, 0),
}


class Answer(NamedTuple):
    """Verification mode of a server.

    Attributes:
        choice: The verify mode, and what kept it from packed rows.
        summary: The line that the server would log.
        attention_backend: Of target verification.
        captured_tokens: Verify tokens of its graphs; empty where nothing is captured.
    """

    choice: Choice
    summary: str
    attention_backend: str
    captured_tokens: tuple[int, ...]


def answer(arguments: Sequence[str], gpu: str | None = None) -> Answer:
    """Resolve a server's flags as its start would, up to the point where weights are loaded.

    Args:
        arguments: The server's command line.
        gpu: The GPU to resolve them for, of :data:`GPUS`; the one that is here if None.

    Raises:
        InputError: The server would be refused, by this package or by SGLang.
    """
    device = early.requested_device(arguments)
    if gpu is not None and device is None:
        arguments = [*arguments, "--device", "cuda"]
    early.prepare(arguments)
    torchvision_stand_in.install()
    if gpu is None and device in (None, "cuda") and os.environ.get(early.VARIABLE) != "1":
        import torch

        if not torch.cuda.is_available():
            raise InputError(f"gpu: this machine has none to resolve the flags for; name one of {', '.join(GPUS)}")
    try:
        with warnings.catch_warnings(), _on(gpu):
            warnings.simplefilter("ignore")
            return _resolved(list(arguments), os.environ.get(support.VARIABLE))
    finally:
        settings.clear()
        launch.restore()


def _resolved(arguments: list[str], mode: str | None) -> Answer:
    """The answer for the platform that SGLang sees; ``mode`` is the operator's verify mode."""
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    server_args = None
    try:
        server_args = prepare_server_args(arguments)
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger("sglang_dspark").setLevel(logging.WARNING)
        server_args._dspark_raises = True
        launch.check_variables()
        draft_checkpoint.check_path(server_args, "model_path")
        draft_checkpoint.check_path(server_args)
        server_args.resolve_once()
        server = support.describe(server_args)
        launch.check_algorithm(server.cfg)
        choice = support.choose(server, mode, draft_checkpoint.headless(server.cfg))
        server_args.check_server_args()
    except InputError:
        raise
    except Exception as error:  # SGLang refuses by errors of any kind.
        raise InputError(f"{_of_what(error, server_args)}: {str(error) or type(error).__name__}") from error
    return Answer(choice, launch.summary(choice), server.verify_backend, _captured(server))


def _of_what(error: Exception, server_args: Any) -> str:
    """The flag whose checkpoint an error of SGLang concerns; SGLang itself where it concerns none."""
    given = {field: getattr(server_args, field, None) for field in ("model_path", "speculative_draft_model_path")}
    for field, path in given.items():
        if path and path in str(error):
            return option(field)
    # A hub that cannot be reached does not say for what.
    hub = [f"{option(field)} {path}" for field, path in given.items() if path and not Path(path).exists()]
    return ", ".join(hub) if hub and isinstance(error, OSError) else "sglang"


def _captured(server: ResolvedServer) -> tuple[int, ...]:
    if not server.captures:
        return ()
    width = int(server.cfg.speculative_num_draft_tokens)
    return tuple(sorted(int(size) * width for size in server.cfg.cuda_graph_config.decode.bs or ()))


@contextmanager
def _on(gpu: str | None) -> Iterator[None]:
    """Replace the GPU that SGLang sees."""
    if gpu is None:
        yield
        return
    if gpu.lower() not in GPUS:
        raise InputError(f"gpu: {gpu!r} is not known; use {', '.join(GPUS)}")
    import torch
    from sglang.srt.runtime_context import override_platform

    capability = GPUS[gpu.lower()]
    here = torch.cuda.get_device_capability
    torch.cuda.get_device_capability = lambda device=None: capability
    try:
        with override_platform(**_facts(capability)):
            yield
    finally:
        torch.cuda.get_device_capability = here


def _facts(capability: tuple[int, int]) -> dict[str, Any]:
    """Facts that SGLang reads from a platform (``runtime_context.get_platform``)."""
    major, minor = capability
    others = ("is_hip", "is_npu", "is_xpu", "is_musa", "is_mps")
    return {
        **dict.fromkeys(others, False),
        "is_cuda": True,
        "is_sm90": major == 9,
        "is_sm100": major == 10,
        "is_sm100_or_sm110": major in (10, 11),
        "is_sm110": major == 11,
        "is_sm120": major == 12,
        "is_blackwell": major in (10, 11, 12),
        "is_hopper_with_cuda_12_3": major == 9,
        "has_flashinfer": True,
        "device_sm": 10 * major + minor,
        "device_capability": capability,
    }
