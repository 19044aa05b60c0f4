"""Before anything loads: the flags, and whether policy, draft, SGLang and the other flags fit together."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from sglang_dspark.errors import InputError, end
from sglang_dspark.policy.artifact import Artifact, load
from sglang_dspark.policy.belief import MAX_REQUESTS
from sglang_dspark.serving import hooks, settings
from sglang_dspark.serving.settings import FLAGS, Settings

logger = logging.getLogger(__name__)

VERIFY_MODE: Final = "SGLANG_RAGGED_VERIFY_MODE"
# What a policy file may set: it must not be able to load code into the server (LD_PRELOAD, PYTHONPATH).
VARIABLES: Final = re.compile("SGLANG_[A-Z0-9_]+")
POLICY: Final = "--speculative-dspark-policy"

# Flags of SGLang that the policy stands in for.
REPLACED: Final = {
    "speculative_dspark_sps_table_path": "the policy's cost_belief",
    "speculative_dspark_confidence_sts_path": "the policy's sts_temperatures",
    "speculative_dspark_align_verify_tokens_to_graph_tier": "the policy's own `fill`",
}


def add_flags(result: None, parser: argparse.ArgumentParser) -> None:
    """After ``ServerArgs.add_cli_args``: the plugin's flags. ``ServerArgs`` has no fields for them."""
    for flag in FLAGS:
        parser.add_argument(flag.option, metavar=flag.metavar, help=flag.help, action=_Remember, dest=flag.field)


class _Remember(argparse.Action):
    """Keeps a value for the child processes, which get ``ServerArgs`` and the environment and nothing else."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        settings.put(self.dest, float(values) if self.dest == "fallback_margin" and _is_number(values) else values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def accept_engine_keywords(engine: Any) -> None:
    """Lets ``sglang.Engine`` take the flags as keywords: its ``server_args_class`` knows only SGLang's own."""
    make = engine.server_args_class

    def server_args(**keywords: Any) -> Any:
        settings.clear()
        for flag in FLAGS:
            if (value := keywords.pop(flag.keyword, None)) is not None:
                settings.put(flag.field, value)
        made = make(**keywords)
        made._dspark_raises = True
        return made

    engine.server_args_class = staticmethod(server_args)


def resolve(server_args: Any, previous: Callable[[Any], None]) -> None:
    """Around SGLang's step ``handle_speculative_decoding``: refuses what does not fit before weights load.

    A command line ends with one line and exit code 2; ``sglang.Engine`` raises.
    """
    try:
        asked = settings.current()
        _check_kernels(server_args)
        if asked is None:
            previous(server_args)
            return
        hooks.check(hooks.policy_hooks())
        artifact = load(asked.policy)
        _set_environment(artifact)
        previous(server_args)
        from sglang.srt.arg_groups.overrides import resolving_view

        check(asked, artifact, resolving_view(server_args))
    except InputError as error:
        if getattr(server_args, "_dspark_raises", False):
            raise
        end("sglang-dspark", error)


def _check_kernels(server_args: Any) -> None:
    """Whether kernels that were asked for by name have something to do and fit this SGLang."""
    if settings.kernels() != "ours":
        return
    hooks.check(hooks.kernel_hooks())
    if server_args.speculative_algorithm != "DSPARK":
        raise InputError(
            f"--speculative-dspark-kernels: ours are DSPARK's, not {server_args.speculative_algorithm}'s; "
            "add --speculative-algorithm DSPARK"
        )


def _set_environment(artifact: Artifact) -> None:
    """The variables that the policy was tuned with, where the operator has set none."""
    for name, value in artifact.environment.items():
        if not VARIABLES.fullmatch(name) or not value.isprintable():
            raise InputError(
                f"{POLICY}: environment: {name!r} is not one that a policy may set; only SGLANG_* are, remove it"
            )
        if name in os.environ:
            if os.environ[name] != value:
                logger.warning("%s: tuned with %s=%s, started with %s", POLICY, name, value, os.environ[name])
        else:
            os.environ[name] = value
    os.environ.setdefault(VERIFY_MODE, "compact")


def check(asked: Settings, artifact: Artifact, cfg: Any) -> None:
    """Whether an artifact can steer the server that ``cfg`` describes.

    Args:
        cfg: SGLang's configuration after ``handle_speculative_decoding``.

    Raises:
        InputError: It cannot; the message names the field or flag and what to do.
    """
    if cfg.speculative_algorithm != "DSPARK":
        raise InputError(
            f"{POLICY}: steers DSPARK, not {cfg.speculative_algorithm}; add --speculative-algorithm DSPARK"
        )
    for field, stand_in in REPLACED.items():
        if getattr(cfg, field):
            raise InputError(f"{_option(field)}: {POLICY} brings {stand_in}; give one of the two")
    if os.environ[VERIFY_MODE] == "static":
        raise InputError(
            f"{VERIFY_MODE}: static verifies whole blocks, so {POLICY} has nothing to schedule; "
            "use compact, or leave out the policy"
        )
    gamma = int(cfg.speculative_num_draft_tokens) - 1
    if artifact.gamma != gamma:
        raise InputError(
            f"{asked.policy}: gamma: {artifact.gamma} is not the block of {gamma} that the server drafts; "
            f"start with --speculative-dspark-block-size {artifact.gamma} or tune for {gamma}"
        )
    _check_draft(cfg)
    _check_unsupported(cfg)
    if asked.class_keys is not None and not Path(asked.class_keys).is_file():
        raise InputError(f"--speculative-dspark-class-keys: {asked.class_keys} cannot be read; give a file of keys")
    if artifact.serve == "plain":
        logger.warning("%s: %s", asked.policy, artifact.advice)
    elif different := _different(artifact.server_flags, cfg):
        logger.warning(
            "%s was tuned for other flags (now %s); use: %s",
            asked.policy,
            ", ".join(different),
            " ".join(f"{flag} {value}" for flag, value in artifact.server_flags.items()),
        )


def _check_draft(cfg: Any) -> None:
    """A draft without a confidence head has nothing to schedule by; upstream finds out after loading it."""
    path = Path(cfg.speculative_draft_model_path or "") / "config.json"
    if cfg.speculative_draft_model_path is None or not path.is_file():
        return  # From a hub: the planner refuses it, when it has been fetched.
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a DSpark checkpoint") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no fields; give a DSpark checkpoint")
    parts = [config, *(config.get(key) for key in ("dspark_config", "dflash_config"))]
    if not any(isinstance(part, dict) and part.get("enable_confidence_head") for part in parts):
        raise InputError(
            f"{path}: enable_confidence_head: not set; {POLICY} schedules by confidence, use a draft that has the head"
        )


def _check_unsupported(cfg: Any) -> None:
    if cfg.attn_dp_size > 1:
        raise InputError(
            f"--attn-dp-size: {cfg.attn_dp_size} is not supported with {POLICY}; use 1, or start without the policy"
        )
    if cfg.use_ray:
        raise InputError(f"--use-ray: is not supported with {POLICY}; start without one of the two")
    if cfg.pp_size > 1:
        raise InputError(f"--pp-size: {cfg.pp_size} is not supported with {POLICY}; use 1")
    if cfg.speculative_use_block_verification:
        # It accepts by the probabilities of the whole block, of which a shorter verify length has only a part.
        raise InputError(
            f"--speculative-use-block-verification: needs whole blocks, and {POLICY} verifies prefixes; "
            "give one of the two"
        )
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
    """The flags of ``flags`` that the server has otherwise, with its values."""
    found = []
    for flag, value in flags.items():
        now = getattr(cfg, flag.removeprefix("--").replace("-", "_"), value)
        text = " ".join(map(str, now)) if isinstance(now, list) else "not set" if now is None else str(now)
        if text != value:
            found.append(f"{flag} {text}")
    return found


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")
