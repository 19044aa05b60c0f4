"""Launch check, before anything loads: whether policy, draft, SGLang and the other flags fit together."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sglang_dspark.errors import InputError, end
from sglang_dspark.policy.artifact import Artifact, load
from sglang_dspark.policy.belief import MAX_REQUESTS
from sglang_dspark.serving import draft_checkpoint, hooks, settings, support
from sglang_dspark.serving.resolved_server import ResolvedServer, option
from sglang_dspark.serving.settings import FLAGS, Settings
from sglang_dspark.serving.support import Choice

logger = logging.getLogger(__name__)

SIMULATE: Final = "SGLANG_SIMULATE_ACC_LEN"
# What a policy file may set: it must not be able to load code into the server (LD_PRELOAD, PYTHONPATH).
VARIABLES: Final = re.compile("SGLANG_[A-Z0-9_]+")
POLICY: Final = "--speculative-dspark-policy"

# Flags of SGLang that the policy stands in for.
REPLACED: Final = {
    "speculative_dspark_sps_table_path": "the policy's cost_belief",
    "speculative_dspark_confidence_sts_path": "the policy's sts_temperatures",
    "speculative_dspark_align_verify_tokens_to_graph_tier": "the policy's own `fill`",
}


def accept_engine_keywords(engine: Any) -> None:
    """Let ``sglang.Engine`` take the flags as keywords: its ``server_args_class`` knows only SGLang's own."""
    make = engine.server_args_class

    def server_args(**keywords: Any) -> Any:
        settings.clear()
        restore()
        for flag in FLAGS:
            if (value := keywords.pop(flag.keyword, None)) is not None:
                settings.put(flag.field, value)
        made = make(**keywords)
        made._dspark_raises = True
        return made

    engine.server_args_class = staticmethod(server_args)


def resolve(server_args: Any, previous: Callable[[Any], None]) -> None:
    """Around SGLang's step ``handle_speculative_decoding``: refuse what does not fit before weights load.

    A command line ends with one line and exit code 2; ``sglang.Engine`` raises.
    """
    try:
        restore()
        chosen = settings.current()
        _check_kernels(server_args)
        if chosen is None:
            previous(server_args)
            return
        hooks.check(hooks.policy_hooks())
        artifact = load(chosen.policy)
        _set_environment(artifact)
        check_variables()
        server = support.describe(server_args)
        check_algorithm(server.cfg)
        draft_checkpoint.check_path(server.cfg)
        mode = os.environ.get(support.VARIABLE)
        _put_in_force(support.choose(server, mode))
        # Resolves the path of the draft, and gamma.
        previous(server_args)
        choice = check(chosen, artifact, server, mode)
        _put_in_force(choice)
        logger.log(logging.INFO if choice.mode == "compact" else logging.WARNING, "%s: %s", POLICY, summary(choice))
    except InputError as error:
        if getattr(server_args, "_dspark_raises", False):
            raise
        end("sglang-dspark", error)


def _check_kernels(server_args: Any) -> None:
    """Refuse kernels that were requested by name and do not apply to this server or SGLang."""
    if settings.kernels() != "ours":
        return
    hooks.check(hooks.kernel_hooks())
    if server_args.speculative_algorithm != "DSPARK":
        raise InputError(
            f"--speculative-dspark-kernels: ours are DSPARK's, not {server_args.speculative_algorithm}'s; "
            "add --speculative-algorithm DSPARK"
        )


def check_algorithm(cfg: Any) -> None:
    """Refuse a server that does not draft with DSpark."""
    name = cfg.speculative_algorithm
    if name is None or name.upper() != "DSPARK":
        raise InputError(f"{POLICY}: steers DSPARK, not {name}; add --speculative-algorithm DSPARK")


# Variables that this process has set for its children, with their values.
_ours: dict[str, str] = {}


def _set(name: str, value: str) -> None:
    """Set a variable of the server, until this process makes another server."""
    if os.environ.get(name) != value:
        os.environ[name] = _ours[name] = value


def restore() -> None:
    """Unset variables that were set for an earlier server of this process, not by the operator."""
    while _ours:
        name, value = _ours.popitem()
        if os.environ.get(name) == value:
            del os.environ[name]


def _set_environment(artifact: Artifact) -> None:
    """Set the variables that the policy was tuned with, where the operator has set none.

    The verify mode is not taken from the file: it was tuned for some server, and this one may differ.
    """
    for name, value in artifact.environment.items():
        if not VARIABLES.fullmatch(name) or not value.isprintable():
            raise InputError(
                f"{POLICY}: environment: {name!r} is not one that a policy may set; only SGLANG_* are, remove it"
            )
        if name in os.environ:
            if os.environ[name] != value:
                logger.warning("%s: tuned with %s=%s, started with %s", POLICY, name, value, os.environ[name])
        elif name != support.VARIABLE:
            _set(name, value)


def check_variables() -> None:
    """Refuse variables of SGLang with an invalid value, for which it would warn and take its default."""
    from sglang.srt.environ import EnvField, envs

    for name, value in os.environ.items():
        field = getattr(envs, name, None) if VARIABLES.fullmatch(name) else None
        if not isinstance(field, EnvField) or value in ("", str(None)):  # As a variable without a value is written.
            continue
        try:
            field.parse(value)
        except (ValueError, OSError) as error:
            raise InputError(f"{_with_origin(name)}: {value!r} is not valid ({error}); correct or unset it") from error
    support.check_mode(os.environ.get(support.VARIABLE))


def _with_origin(name: str) -> str:
    """A variable with its origin: the operator's, or the policy's."""
    return f"{POLICY}: environment: {name}" if name in _ours else name


def _put_in_force(choice: Choice) -> None:
    """Set the variable of the chosen verify mode; static is the default, and the operator's own is set already."""
    if choice.mode == "compact":
        _set(support.VARIABLE, "compact")
    elif support.VARIABLE in _ours:
        del _ours[support.VARIABLE], os.environ[support.VARIABLE]


def summary(choice: Choice) -> str:
    """One line for the log: how the server verifies, why, and which parts of the policy apply."""
    if choice.mode == "compact":
        return "verify lengths are steered (compact)"
    if choice.mode == "cap-accept":
        return (
            f"{support.VARIABLE}=cap-accept verifies whole blocks and throws acceptances away; "
            "unset it to verify what the policy admits"
        )
    return (
        f"whole blocks are verified ({_reasons(choice)}); the policy's block size, flags and advice hold, "
        "verify lengths, rests, classes and STS temperatures are not steered"
    )


def _reasons(choice: Choice) -> str:
    if not choice.obstacles:
        return f"{support.VARIABLE}=static"
    return "; ".join(f"{one.what}: {one.why}" for one in choice.obstacles)


def check(chosen: Settings, artifact: Artifact, server: ResolvedServer, mode: str | None) -> Choice:
    """Choose how a server verifies that is to follow an artifact.

    Args:
        server: After ``handle_speculative_decoding``.
        mode: The operator's verify mode; None where none was given.

    Raises:
        InputError: It cannot follow it; the message names the field or flag and what to do.
    """
    cfg = server.cfg
    check_algorithm(cfg)
    for field, stand_in in REPLACED.items():
        if getattr(cfg, field):
            raise InputError(f"{option(field)}: {POLICY} brings {stand_in}; give one of the two")
    gamma = int(cfg.speculative_num_draft_tokens) - 1
    if artifact.gamma != gamma:
        raise InputError(
            f"{chosen.policy}: gamma: {artifact.gamma} is not the block of {gamma} that the server drafts; "
            f"start with --speculative-dspark-block-size {artifact.gamma} or tune for {gamma}"
        )
    choice = support.choose(server, mode, draft_checkpoint.headless(cfg))
    _check_limits(cfg)
    if choice.mode != "static":
        _check_simulated()
    elif chosen.record is not None:
        raise InputError(
            f"--speculative-dspark-record: records what a policy steers, and whole blocks are verified "
            f"({_reasons(choice)}); leave it out"
        )
    if chosen.class_keys is not None and not Path(chosen.class_keys).is_file():
        raise InputError(f"--speculative-dspark-class-keys: {chosen.class_keys} cannot be read; give a file of keys")
    if artifact.serve == "plain":
        logger.warning("%s: %s", chosen.policy, artifact.advice)
    elif different := _different(artifact.server_flags, cfg):
        logger.warning(
            "%s was tuned for other flags (now %s); use: %s",
            chosen.policy,
            ", ".join(different),
            " ".join(f"{flag} {value}" for flag, value in artifact.server_flags.items()),
        )
    return choice


def _check_simulated() -> None:
    """Refuse simulated acceptance, which accepts the same number of drafts of every request, verified or not."""
    text = os.environ.get(SIMULATE, "")
    value = float(text or -1)
    if math.isnan(value) or (value > 0 and value != 1.0):
        raise InputError(
            f"{_with_origin(SIMULATE)}: {text} accepts drafts that {POLICY} may not have verified; "
            "unset it, use 1, or start without the policy"
        )


def _check_limits(cfg: Any) -> None:
    if cfg.max_running_requests is not None and cfg.max_running_requests > MAX_REQUESTS:
        raise InputError(
            f"--max-running-requests: {cfg.max_running_requests} is more than {POLICY} can rank; "
            f"use at most {MAX_REQUESTS}"
        )
    if os.environ.get("SGLANG_DSPARK_STS_COLLECT_PATH"):
        raise InputError(
            f"SGLANG_DSPARK_STS_COLLECT_PATH: collects confidences as the draft gives them, and {POLICY} corrects "
            "them; unset it or start without the policy"
        )


def _different(flags: Mapping[str, str], cfg: Any) -> list[str]:
    """The flags of ``flags`` that differ on the server, with its values."""
    different = []
    for flag, value in flags.items():
        now = getattr(cfg, flag.removeprefix("--").replace("-", "_"), value)
        text = " ".join(map(str, now)) if isinstance(now, list) else "not set" if now is None else str(now)
        if text != value:
            different.append(f"{flag} {text}")
    return different
