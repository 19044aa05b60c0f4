"""Control keys of a running server in ``/set_internal_state``, and its state in ``/get_server_info``."""

from __future__ import annotations

from typing import Any

from sglang_dspark.serving.policy_file_watcher import Watcher
from sglang_dspark.serving.steps import Mode

MODE = "dspark_policy_mode"
RELOAD = "dspark_policy_reload"
RECORD = "dspark_policy_record"


def update_handlers(handlers: dict[str, Any], controller: Any) -> dict[str, Any]:
    """After ``_update_handlers``: add ``dspark_policy_mode`` (0 off, 1 on, 2 shadow), ``dspark_policy_reload``, and
    ``dspark_policy_record`` (the first step that a recorder requests, 0 to end the recording).

    SGLang accepts only numbers here, and passes them to every rank between two steps.
    """
    from sglang.srt.managers.scheduler_components.internal_state import UpdateRejected, _UpdateHandler

    scheduler = controller.scheduler
    live, observers = scheduler.__dict__.get("dspark"), scheduler.__dict__.get("dspark_observers")
    if live is None or live.policy is None:
        return handlers

    def check_mode(key: str, value: Any) -> None:
        if value not in list(Mode):
            raise UpdateRejected(f"{key} must be 0 (off), 1 (on) or 2 (shadow), got {value}.")

    def set_mode(key: str, value: Any) -> None:
        live.policy.switch(Mode(int(value)))

    def reload(key: str, value: Any) -> None:
        if value and observers is not None and isinstance(observers.background, Watcher):
            observers.background.reload()

    def check_step(key: str, value: Any) -> None:
        if not (value >= 0 and value == int(value)):
            raise UpdateRejected(f"{key} must be the number of a step, or 0, got {value}.")

    def record(key: str, value: Any) -> None:
        if observers is not None:
            observers.stream.request(int(value))

    return handlers | {
        MODE: _UpdateHandler(check_mode, set_mode),
        RELOAD: _UpdateHandler(lambda key, value: None, reload),
        RECORD: _UpdateHandler(check_step, record),
    }


def add_state(result: None, controller: Any, state: dict[str, Any]) -> None:
    """After ``_add_speculative``: add the policy in force and the recorded steps to ``/get_server_info``."""
    scheduler = controller.scheduler
    live, observers = scheduler.__dict__.get("dspark"), scheduler.__dict__.get("dspark_observers")
    if live is None or live.policy is None:
        return
    policy = live.policy
    now = policy.in_force
    state["dspark_policy"] = {
        "file": policy.settings.policy,
        "version": now.version,
        "family": now.artifact.policy.family,
        "mode": policy.mode.name.lower(),
        "resting": policy.resting,
        "sha256": now.sha256,
        "gamma": policy.gamma,
        "verify_mode": policy.verify_mode,
        "sts_temperatures": list(now.artifact.sts_temperatures),
    }
    if observers is not None and (recorded := observers.stream.state()) is not None:
        state["dspark_policy_record"] = recorded
