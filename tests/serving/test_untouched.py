"""Without the plugin's flags SGLang is unchanged: plugins are loaded in fresh processes, as SGLang loads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sglang_dspark.serving import hooks
from sglang_dspark.serving.settings import FLAGS

REPORT = """
import json, multiprocessing, os, sys

def report():
    from sglang.srt import server_args  # Whoever starts SGLang needs it, and all that it imports.
    from sglang.srt.plugins import load_plugins
    if "scheduler" in sys.argv:
        from sglang.srt.managers import scheduler
        scheduler.configure_scheduler_process = lambda *arguments: None
    if "detokenizer" in sys.argv:
        from sglang.srt.managers import detokenizer_manager
    load_plugins()
    from sglang.srt.plugins.hook_registry import HookRegistry
    from sglang.srt.arg_groups import resolution_hooks
    if "scheduler" in sys.argv:
        scheduler.configure_scheduler_process(None, 0)  # As run_scheduler_process does next.
    patched, modules = sorted(HookRegistry._patched), sorted(sys.modules)
    import argparse
    from sglang.srt.server_args import ServerArgs
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    options = sorted(option for action in parser._actions for option in action.option_strings)
    wrapped = []
    if "planner" in sys.argv:
        from sglang.srt.speculative.dspark_components import dspark_planner
        for owner in (dspark_planner.DSparkVerifyPlanner, dspark_planner.HostConfidenceBudgetPlanner):
            wrapped += [name for name, value in vars(owner).items() if hasattr(value, "__wrapped__")]
    return {"patched": patched, "options": options, "modules": modules, "wrapped": sorted(wrapped)}

def write():
    text = json.dumps(report())
    with open(sys.argv[1], "w") as file:
        file.write(text)

if __name__ == "__main__":
    if "child" in sys.argv:
        process = multiprocessing.get_context("spawn").Process(target=write)
        process.start()
        process.join()
        sys.exit(process.exitcode)
    write()
"""


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    script = folder / "report.py"
    script.write_text(REPORT)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SGLANG_", "DSPARK_"))}
    return subprocess.run(
        [sys.executable, str(script), str(folder / "out.json"), *words],
        env=kept | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Any:
    @cache
    def report(*words: str, **variables: str) -> dict[str, list[str]]:
        folder = tmp_path_factory.mktemp("report")
        done = run(folder, *words, **variables)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "out.json").read_text())

    return report


LAUNCH = [hook.target for hook in hooks.launch_hooks()]


def test_installed_without_a_flag_only_the_flags_are_there(reports) -> None:
    ours, without = reports(), reports(SGLANG_PLUGINS="another")
    assert without["patched"] == []
    assert ours["patched"] == LAUNCH == ["sglang.srt.server_args.ServerArgs.add_cli_args"]
    assert set(ours["options"]) - set(without["options"]) == {flag.option for flag in FLAGS}
    assert set(without["options"]) <= set(ours["options"])


def test_installed_without_a_flag_nothing_more_of_sglang_is_imported(reports) -> None:
    ours, without = (
        {name for name in report["modules"] if name.startswith(("sglang.", "torch."))}
        for report in (reports(), reports(SGLANG_PLUGINS="another"))
    )
    assert ours - without <= {"sglang.srt.arg_groups.resolution_hooks"}


def test_a_scheduler_without_a_policy_is_not_touched(reports) -> None:
    made = reports("child", "scheduler", "planner", SGLANG_USE_CPU_ENGINE="1")
    cpu = sorted(hook.target for hook in hooks.cpu_hooks())
    assert made["patched"] == sorted([*LAUNCH, *cpu]) and made["wrapped"] == []


def test_a_scheduler_with_a_policy_has_every_hook(reports) -> None:
    policy = json.dumps({"policy": "/p.json"})
    made = reports("child", "scheduler", "planner", SGLANG_USE_CPU_ENGINE="1", DSPARK_SERVING=policy)
    assert set(made["patched"]) >= {hook.target for hook in hooks.policy_hooks()}
    assert "schedule_layout" in made["wrapped"] and "compute_budget" in made["wrapped"]


@pytest.mark.parametrize("words", [("child", "detokenizer"), ("child",), ()], ids=["detokenizer", "child", "launcher"])
def test_a_process_that_runs_no_scheduler_has_none_of_them(reports, words: tuple[str, ...]) -> None:
    with_policy, without = (
        reports(*words, SGLANG_USE_CPU_ENGINE="1", **more)
        for more in ({"DSPARK_SERVING": json.dumps({"policy": "/p.json"})}, {})
    )
    assert with_policy["patched"] == without["patched"]
    assert {name for name in with_policy["modules"] if name.startswith(("sglang.srt.speculative", "dspark_"))} <= set(
        without["modules"]
    )


def test_ours_goes_around_what_another_plugin_has_hooked(monkeypatch) -> None:
    """The registry passes over a target that is patched already, and calls that a success."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    module = ModuleType("hooked_by_two")
    module.function = lambda word: word
    monkeypatch.setitem(sys.modules, "hooked_by_two", module)
    monkeypatch.setattr(HookRegistry, "_hooks", defaultdict(list))
    monkeypatch.setattr(HookRegistry, "_patched", set())
    HookRegistry.register("hooked_by_two.function", lambda result, word: result + ", another's", HookType.AFTER)
    HookRegistry.apply_hooks()
    after = [
        hooks.Hook("hooked_by_two.function", "after", lambda result, word, n=n: f"{result}, our {n}", ("word",), "")
        for n in ("first", "second")
    ]
    hooks.install(after)
    assert module.function("upstream's") == "upstream's, another's, our first, our second"


def test_a_scheduler_that_cannot_follow_the_policy_ends(tmp_path: Path) -> None:
    # The plugin's table names a version that is not installed.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('DSPARK_SERVING'):\n"
        "    from sglang_dspark.serving import hooks\n"
        "    hooks.policy_hooks = lambda: (hooks.Hook('sglang.srt.gone', 'around', print, (), ''),)\n"
    )
    variables = {"DSPARK_SERVING": json.dumps({"policy": "/p.json"}), "PYTHONPATH": str(tmp_path)}
    done = run(tmp_path, "child", "scheduler", SGLANG_USE_CPU_ENGINE="1", **variables)
    assert done.returncode == 2
    line = [line for line in done.stderr.splitlines() if line.startswith("sglang-dspark: error:")]
    assert len(line) == 1 and "sglang.srt.gone" in line[0] and hooks.SUPPORTED[0] in line[0]
    assert not (tmp_path / "out.json").exists()
