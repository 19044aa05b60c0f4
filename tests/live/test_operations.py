"""Operation of a running server: reload the policy, switch it off, read metrics and the dashboard."""

from __future__ import annotations

import json
import re
import time
import urllib.request

import pytest

from sglang_dspark.demo.text import CLASSES
from sglang_dspark.local_server.closed_loop import Prompt, closed_loop
from sglang_dspark.local_server.mixed_prompts import mixed
from sglang_dspark.local_server.policies import artifact
from sglang_dspark.local_server.steering import Busy, put_in_force
from sglang_dspark.policy import Threshold
from sglang_dspark.serving.steps import Mode
from tests.live import servers
from tests.serving import dashboard

RELOADS = 100
DEADLINE_S = 600.0
JSON = {"Content-Type": "application/json"}
RARE = (
    *("policy_refusals", "policy_fallbacks", "policy_rests", "class_refusals", "lost_steps"),
    *("shadow_disagreements", "resting_steps"),
)

pytestmark = pytest.mark.parametrize("steered", [servers.COMPACT_SYNC], indirect=True)


def metric(server: servers.ServerProcess, name: str, **labels: str) -> float:
    """Sum of a metric's samples that carry ``labels``."""
    total = 0.0
    for line in server.get("/metrics").splitlines():
        if match := re.fullmatch(rf"sglang:dspark_{name}\{{(.*)\}} (\S+)", line):
            held = dict(re.findall(r'(\w+)="([^"]*)"', match[1]))
            if all(held.get(key) == value for key, value in labels.items()):
                total += float(match[2])
    return total


def wait_for(server: servers.ServerProcess, name: str, at_least: float, **labels: str) -> None:
    """Wait until a metric, published once a second, reaches a value."""
    deadline = time.monotonic() + DEADLINE_S
    while metric(server, name, **labels) < at_least:
        assert time.monotonic() < deadline, f"{name} stays below {at_least}"
        time.sleep(0.2)


def wait_for_publication(steered: servers.SteeredServer) -> None:
    """Wait until all steps of answered requests are counted: no later than a refusal that follows them."""
    refusals = metric(steered.server, "policy_refusals_total")
    steered.path.write_text("")
    wait_for(steered.server, "policy_refusals_total", refusals + 1)


def test_a_hundred_reloads_under_load_fail_no_request(steered: servers.SteeredServer) -> None:
    kinds = ("threshold", "fixed", "argmax", "none")
    first = steered.server.state()["dspark_policy"]["version"]
    loads = []
    with Busy(lambda: loads.append(closed_loop(steered.server, mixed()[:32], 8))):
        for i in range(RELOADS):
            put_in_force(steered.server, artifact(kinds[i % len(kinds)], advice=f"Reload {i}."), steered.path)
    assert steered.server.state()["dspark_policy"]["version"] == first + RELOADS
    assert sum(load.failed for load in loads) == 0
    assert sum(len(load.answers) for load in loads) > RELOADS
    wait_for(steered.server, "policy_reloads_total", RELOADS)


def test_an_invalid_file_leaves_the_policy_and_says_why(steered: servers.SteeredServer) -> None:
    server = steered.server
    steered.use(artifact("fixed"))
    before, refusals = server.state()["dspark_policy"], metric(server, "policy_refusals_total")
    for content in (
        "",
        "{",
        '{"schema_version": 1}',
        artifact("fixed").model_dump_json().replace('"gamma":7', '"gamma":5'),
    ):
        steered.path.write_text(content)
        refusals += 1
        wait_for(server, "policy_refusals_total", refusals)
    assert not closed_loop(server, mixed()[:4], 2).failed
    assert server.state()["dspark_policy"] == before
    assert "stays in force" in server.log.read_text()


def test_the_kill_switch_returns_to_whole_blocks(steered: servers.SteeredServer) -> None:
    server = steered.server
    steered.use(artifact("fixed"))
    assert closed_loop(server, mixed()[:4], 2).verify_length == 3
    assert server.set_state(dspark_policy_mode=int(Mode.OFF))
    closed_loop(server, mixed()[:2], 1)
    assert closed_loop(server, mixed()[:4], 2).verify_length == 7
    assert server.state()["dspark_policy"]["mode"] == "off"
    assert server.set_state(dspark_policy_mode=int(Mode.SHADOW))
    closed_loop(server, mixed()[:2], 1)
    assert closed_loop(server, mixed()[:4], 2).verify_length == 7
    wait_for(server, "shadow_disagreements_total", 1)
    assert server.set_state(dspark_policy_mode=int(Mode.ON))
    closed_loop(server, mixed()[:2], 1)
    assert closed_loop(server, mixed()[:4], 2).verify_length == 3


def test_metrics_count_what_the_answers_say(steered: servers.SteeredServer) -> None:
    server = steered.server
    steered.use(artifact("fixed"))
    wait_for_publication(steered)
    names = ("verified_tokens_total", "accepted_tokens_total", "drafted_tokens_total")
    before = {name: metric(server, name) for name in names}
    loaded = closed_loop(server, mixed()[:30], 1, ignore_eos=True)
    rounds = sum(answer.rounds for answer in loaded.answers)
    accepted = sum(answer.tokens - 1 - answer.rounds for answer in loaded.answers)
    wait_for(server, "drafted_tokens_total", before["drafted_tokens_total"] + 7 * rounds)
    after = {name: metric(server, name) - before[name] for name in names}
    # A request's last round may accept beyond its last token, and with overlap one more round may run.
    assert after["drafted_tokens_total"] == pytest.approx(7 * rounds, abs=7 * len(loaded.answers))
    assert after["verified_tokens_total"] == pytest.approx(3 * rounds, abs=3 * len(loaded.answers))
    assert after["accepted_tokens_total"] >= accepted
    assert metric(server, "policy_mode") == Mode.ON
    assert metric(server, "position_judged_total", position="1") > metric(server, "position_judged_total", position="3")
    assert metric(server, "class_rounds_total", slo_class="prose") > 0


def test_the_dashboard_asks_for_what_the_server_exports(steered: servers.SteeredServer) -> None:
    steered.use(artifact("fixed"))
    closed_loop(steered.server, mixed()[:8], 4)
    # Only streamed answers have gaps between tokens.
    streamed = json.dumps({"text": mixed()[0].text, "sampling_params": {"max_new_tokens": 16}, "stream": True})
    request = urllib.request.Request(f"{steered.server.url}/generate", streamed.encode(), JSON)
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        assert b"[DONE]" in answer.read()
    wait_for_publication(steered)
    exported: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(sglang:\w+)\{(.*)\} ", steered.server.get("/metrics"), re.M):
        exported.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    asked = [one for query in dashboard.queries(dashboard.read()) for one in dashboard.selectors(query)]
    # These appear when what they count has happened; tests/serving holds them to the plugin's own names.
    rare = {f"sglang:dspark_{name}_total" for name in RARE}
    assert {one.metric for one in asked} - rare <= exported.keys()
    for one in asked:
        if one.metric in exported:
            assert one.labels - {"instance"} <= exported[one.metric], one


def test_a_class_with_more_weight_verifies_more(steered: servers.SteeredServer) -> None:
    weighted = Threshold(running=(1,), theta=(0.4,), weight=(1.0, 4.0, 1.0))
    steered.use(artifact("threshold").model_copy(update={"policy": weighted}))
    text = mixed()[4].text
    prompts = [Prompt(text + str(i), 24, CLASSES[i % 2]) for i in range(16)]
    loaded = closed_loop(steered.server, prompts, 8, ignore_eos=True)
    assert loaded.of("prose").verify_length > loaded.of("code").verify_length + 0.3
    nameless = closed_loop(steered.server, [p._replace(slo_class="nobody's") for p in prompts], 8, ignore_eos=True)
    assert nameless.verify_length < loaded.of("prose").verify_length


def test_where_the_policy_rests_the_drafter_its_forward_is_skipped(steered: servers.SteeredServer) -> None:
    steered.use(artifact("none"))
    wait_for_publication(steered)
    resting, drafted = metric(steered.server, "resting_steps_total"), metric(steered.server, "drafted_tokens_total")
    closed_loop(steered.server, mixed()[:8], 4)
    wait_for(steered.server, "resting_steps_total", resting + 5)
    assert metric(steered.server, "drafted_tokens_total") == drafted
    # The first step after a rest has no fresh confidence, and still verifies what the policy says.
    steered.use(artifact("fixed"))
    assert closed_loop(steered.server, mixed()[:8], 4).verify_length == 3
