"""What an operator can do to a running server: through ``/set_internal_state``, with the keys that it asks for."""

from __future__ import annotations

from typing import Any

from sglang_dspark.serving.live import Mode
from sglang_dspark.serving.step_hooks import of

MODE = "dspark_policy_mode"
RELOAD = "dspark_policy_reload"
RECORD = "dspark_policy_record"


def update_handlers(handlers: dict[str, Any], controller: Any) -> dict[str, Any]:
    """After ``_update_handlers``: ``{"dspark_policy_mode": 0|1|2}`` (off, on, shadow), ``dspark_policy_reload``, and
    ``dspark_policy_record``, the first step that a recorder wants, 0 to end the recording.

    SGLang takes numbers only there, and hands them to every rank between two steps.
    """
    from sglang.srt.managers.scheduler_components.internal_state import UpdateRejected, _UpdateHandler

    live = of(controller.scheduler.draft_worker)
    if live is None:
        return handlers

    def check_mode(key: str, value: Any) -> None:
        if value not in list(Mode):
            raise UpdateRejected(f"{key} must be 0 (off), 1 (on) or 2 (shadow), got {value}.")

    def set_mode(key: str, value: Any) -> None:
        live.switch(Mode(int(value)))

    def reload(key: str, value: Any) -> None:
        if value and live.watcher is not None:
            live.watcher.ask()

    def check_step(key: str, value: Any) -> None:
        if not (value >= 0 and value == int(value)):
            raise UpdateRejected(f"{key} must be the number of a step, or 0, got {value}.")

    def record(key: str, value: Any) -> None:
        if live.stream is not None:
            live.stream.ask(int(value))

    return handlers | {
        MODE: _UpdateHandler(check_mode, set_mode),
        RELOAD: _UpdateHandler(lambda key, value: None, reload),
        RECORD: _UpdateHandler(check_step, record),
    }


def add_state(result: None, controller: Any, state: dict[str, Any]) -> None:
    """After ``_add_speculative``: the policy in force and what is recorded, in ``/get_server_info``."""
    live = of(controller.scheduler.draft_worker)
    if live is None:
        return
    now = live.in_force
    state["dspark_policy"] = {
        "file": live.settings.policy,
        "version": now.version,
        "family": now.artifact.policy.family,
        "mode": live.mode.name.lower(),
        "resting": live.resting,
        "sha256": now.sha256,
        "gamma": live.gamma,
        "verify_mode": live.verify_mode,
        "sts_temperatures": list(now.artifact.sts_temperatures),
    }
    if live.stream is not None and (found := live.stream.state()) is not None:
        state["dspark_policy_record"] = found
