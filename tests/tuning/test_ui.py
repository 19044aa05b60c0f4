"""The interactive page in headless Chromium; its results equal the command's."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from dash import no_update
from dash.html import Div
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dspark_simulator.scenario import Scenario, load, names
from dspark_tuning.reporting.ui.app import answer
from dspark_tuning.reporting.ui.controls import CONTROLS, RefusedError, moved, shown
from sglang_dspark.policy import artifact
from tests.tuning.command import dspark

pytestmark = pytest.mark.xdist_group("ui")

# Ends a page that hangs; Playwright's own 5 s are too few on a busy machine.
WAIT_MS = 300_000
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of the page served by the command."""
    command = [sys.executable, "-m", "dspark_tuning.cli", "ui", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None and served.stderr is not None
        said = served.stdout.readline() + served.stdout.readline()
        found = re.fullmatch(r"Simulating once; .*\nServing (http://127\.0\.0\.1:\d+/) until interrupted\.\n", said)
        assert found, said + served.stderr.read()
        yield found[1]
        served.send_signal(signal.SIGINT)
        assert served.wait(300) == 0
        assert served.stdout.read() == served.stderr.read() == ""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        programs = ("chromium", "google-chrome", playwright.chromium.executable_path)
        found = next(filter(None, map(shutil.which, programs)), None)
        if found is None:
            pytest.skip("the page is tested in Chromium: apt-get install chromium, or playwright install chromium")
        # No sandbox: containers run as root.
        made = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()


class Opened:
    """An open page with its requests and console errors."""

    def __init__(self, browser: Browser, address: str, width: int = 1280) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(WAIT_MS)
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.address = address
        self.page.goto(self.address)
        for part in ("#figures table", "#time .main-svg >> nth=0", "#latencies .main-svg >> nth=0"):
            expect(self.page.locator(part)).to_be_visible()

    def figures(self) -> dict[str, list[str]]:
        rows = self.page.locator("#figures tbody tr").all()
        return {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}

    def type(self, key: str, text: str) -> None:
        """Type a value and wait for the result."""
        with self.simulated():
            self.page.fill(f"#{key}", text)
            self.page.press(f"#{key}", "Enter")

    @contextmanager
    def simulated(self) -> Iterator[None]:
        """Wait for the answer to the action within."""
        with self.page.expect_response(lambda answer: "told.children" in (answer.request.post_data or "")):
            yield
        # Dash marks pending elements until it shows the answer; charts follow in the next frames.
        expect(self.page.locator("[data-dash-is-loading]")).to_have_count(0)
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def lines(self, graph: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.page.evaluate(
            f"JSON.parse(JSON.stringify(document.querySelector('#{graph} .js-plotly-plot').data, "
            "(key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value))"
        )
        return found

    def download(self, button: str, path: Path) -> Path:
        with self.page.expect_download() as started:
            self.page.click(button)
        started.value.save_as(path)
        return path


@pytest.fixture
def opened(browser: Browser, address: str) -> Iterator[Opened]:
    found = Opened(browser, address)
    yield found
    assert not found.complaints
    assert all(url.startswith((found.address, "data:", "blob:")) for url in found.asked)
    found.page.close()


def said(path: Path, policy: list[object]) -> dict[str, list[str]]:
    """The command's results under the page's titles."""
    found = dspark("simulate", path, *policy, "--json").json()["result"]
    return {
        "Output tokens/s": found["throughput_tok_s"],
        "TPOT p99, ms": 1e3 * found["tpot"]["p99_s"],
        "TTFT p50, ms": 1e3 * found["ttft"]["p50_s"],
        "Verify length, drafts": found["verify_length"],
        "Accepted length, tokens a round": found["accepted_length"],
    }


def close(shown: str, value: float) -> bool:
    # Three digits or more are shown.
    return float(shown.replace(",", "")) == pytest.approx(value, rel=6e-3)


def test_figures_are_those_of_the_command_on_what_is_exported(opened: Opened, tmp_path: Path) -> None:
    opened.type("load", "24")
    opened.type("acceptance", "0.8")
    opened.type("a", "static-0.3")
    figures = opened.figures()
    scenario = opened.download("#export-scenario", tmp_path / "scenario.yaml")
    exported = load(str(scenario))
    assert exported.workload.clients == 24
    for place, arm in enumerate(("static-0.3", "aligned")):
        for title, value in said(scenario, ["--arm", arm]).items():
            assert close(figures[title][place], value), (title, arm)
    policy = opened.download("#export-a", tmp_path / "policy.json")
    assert artifact.load(policy).policy.model_dump()["theta"] == 0.3
    for title, value in said(scenario, ["--policy", policy]).items():
        assert close(figures[title][0], value), title
    assert yaml.safe_load(scenario.read_text())["name"] == "b300-v4flash"
    # An exported policy can be compared.
    opened.type("b", str(policy))
    assert [one == other for one, other, _ in opened.figures().values()] == [True] * len(figures)


def test_a_move_changes_the_picture(opened: Opened) -> None:
    before, figures = opened.lines("time"), opened.figures()
    # One doubling, by keyboard.
    opened.page.focus("#load-slider [role=slider]")
    for _ in range(4):
        with opened.simulated():
            opened.page.keyboard.press("ArrowRight")
    expect(opened.page.locator("#load")).to_have_value("128")
    opened.type("running", "128")
    after = opened.lines("time")
    assert [line["name"] for line in after] == [line["name"] for line in before]
    running = [line for line in after if line["yaxis"] == "y"]
    assert all(max(line["y"]) > 100 for line in running)
    assert float(opened.figures()["Running requests"][0]) > 2 * float(figures["Running requests"][0])
    # A typed number moves its slider.
    expect(opened.page.locator("#running-slider [role=slider]")).to_have_attribute("aria-valuenow", "1.5")


def test_each_control_does_what_it_says(opened: Opened) -> None:
    first = opened.figures()

    def number(title: str) -> float:
        return float(opened.figures()[title][0].replace(",", ""))

    opened.type("ttft", "4")
    assert number("Within SLOs, %") > float(first["Within SLOs, %"][0])
    opened.type("ttft", "1")
    opened.type("acceptance", "0.5")
    assert number("Accepted length, tokens a round") < float(first["Accepted length, tokens a round"][0])
    opened.type("acceptance", "1")
    opened.type("output", "2")
    levels = opened.lines("latencies")
    assert number("KV pool in use, %") > float(first["KV pool in use, %"][0])
    opened.type("tpot", "0.5")
    # SLOs are drawn at their new values.
    moved_levels = [line["x"][0] for line in opened.lines("latencies") if line["name"] == "service levels"]
    assert moved_levels == pytest.approx(
        [
            x * (0.5 if line["yaxis"] == "y2" else 1)
            for line in levels
            if line["name"] == "service levels"
            for x in line["x"][:1]
        ]
    )


def test_a_bad_value_is_refused_in_place(opened: Opened, tmp_path: Path) -> None:
    figures = opened.figures()
    for key, text, part in (
        ("load", "0", "Load: '0' is not valid; give a whole number"),
        ("prompt", "long", "Prompt length: 'long' is not valid; give a factor"),
        ("acceptance", "8", "no drafter has"),
        ("a", "best", "'best' is not known"),
        ("b", str(tmp_path / "none.json"), "cannot be read"),
    ):
        opened.page.fill(f"#{key}", text)
        opened.page.press(f"#{key}", "Enter")
        expect(opened.page.locator(f"#{key}-error")).to_contain_text(part)
    assert opened.figures() == figures
    expect(opened.page.locator("#told")).to_contain_text("Not simulated")
    opened.page.click("#export-scenario")
    expect(opened.page.locator("#export-error")).to_contain_text("a value is refused")
    for key, text in (("load", "16"), ("prompt", "1"), ("acceptance", "1"), ("a", "oracle"), ("b", "plain")):
        opened.page.fill(f"#{key}", text)
        opened.page.press(f"#{key}", "Enter")
    expect(opened.page.locator("#told")).to_contain_text("requests measured")
    assert all(not line for line in opened.page.locator(".field .error").all_inner_texts())
    assert opened.figures()["Verify length, drafts"][1] == "0.00"
    opened.page.click("#export-a")
    expect(opened.page.locator("#export-error")).to_contain_text("the step oracle knows")


def test_scenarios_can_be_picked(opened: Opened, tmp_path: Path) -> None:
    opened.type("load", "32")
    asked: list[str] = []
    opened.page.on("request", lambda request: asked.append(request.post_data or ""))
    opened.page.click("#scenario")
    with opened.simulated():
        opened.page.get_by_text("mi350x-v4flash").click()
    other = load("mi350x-v4flash")
    expect(opened.page.locator("#load")).to_have_value(shown(CONTROLS[0], other))
    expect(opened.page.locator("#about")).to_contain_text("Computed, not measured")
    # The load that was typed for another scenario is not simulated on this one.
    simulated = [json.loads(text)["inputs"] for text in asked if "told.children" in text]
    loads = [found["value"] for inputs in simulated for found in inputs if found["id"] == "load"]
    assert set(loads) == {shown(CONTROLS[0], other)}
    scenario = opened.download("#export-scenario", tmp_path / "scenario.yaml")
    policy = opened.download("#export-b", tmp_path / "policy.json")
    assert load(str(scenario)).model_copy(update={"run": other.run}) == other
    figures = opened.figures()
    for title, value in said(scenario, ["--policy", policy]).items():
        assert close(figures[title][1], value), title


def test_nothing_is_wider_than_a_narrow_screen(browser: Browser, address: str) -> None:
    narrow = Opened(browser, address, 390)
    assert narrow.page.evaluate("document.documentElement.scrollWidth") == 390
    # Every input has a name for those who cannot see it.
    assert (
        narrow.page.evaluate(
            "[...document.querySelectorAll('input[id]')].filter(i => !i.labels?.length && !i.ariaLabel).map(i => i.id)"
        )
        == []
    )
    sliders = narrow.page.locator("[role=slider]")
    assert sliders.count() == len(CONTROLS)
    for control, slider in zip(CONTROLS, sliders.all(), strict=True):
        expect(slider).to_have_attribute("aria-label", control.label)
    narrow.type("output", "1.5")
    expect(narrow.page.locator("#output-slider [role=slider]")).to_have_attribute("aria-valuetext", "1.5")
    narrow.page.close()


def check_nothing_moves(scenario: Scenario) -> None:
    same = moved(scenario, {control.key: shown(control, scenario) for control in CONTROLS})
    assert same.model_copy(update={"run": scenario.run}) == scenario


def own(**fields: object) -> Scenario:
    """Open arrivals at a rate that is shown rounded, on a server that captures fewer requests than it runs."""
    content = load("h200-qwen3-8b").model_dump()
    content["workload"]["arrivals"] = {"kind": "poisson", "rate_per_s": 7.123456789}
    content["server"] |= {"max_running_requests": 300, "capture_requests": 64}
    return Scenario.model_validate(content | {"loads": [1.0], "run": {"max_s": 900.0}} | fields)


def written(scenario: Scenario, folder: Path) -> Path:
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(scenario.model_dump(mode="json")))
    return path


def test_what_is_not_moved_is_as_the_scenario_has_it() -> None:
    scenario = own()
    check_nothing_moves(scenario)
    values = {control.key: shown(control, scenario) for control in CONTROLS}
    assert values["load"] == "7.12346"
    faster = moved(scenario, values | {"load": "8", "running": "320"})
    assert faster.workload.arrivals.mean_rate_per_s == 8
    assert (faster.server.max_running_requests, faster.server.capture_requests) == (320, 320)
    assert faster.run.max_s == scenario.run.max_s


def test_what_cannot_be_simulated_is_said(tmp_path: Path) -> None:
    path = written(own(), tmp_path)
    values = [shown(control, own()) for control in CONTROLS]
    *lines, figures, drawn, _, told = answer(str(path), "0.001", *values[1:], "default", "plain")
    assert not any(lines) and figures is drawn is no_update
    assert told.startswith("Not simulated: h200-qwen3-8b: run.max_s: 900.0 ends within the warm-up")
    # The command refuses it before it serves the page.
    small = {"kv_tokens": 10, "kv_tokens_without_draft": 10}
    ran = dspark("ui", written(own(memory=small), tmp_path), "--port", "0")
    assert ran.code == 2 and "memory: kv_tokens: 10 holds no request" in ran.err


def test_a_saturated_run_is_said(tmp_path: Path) -> None:
    path = written(own(), tmp_path)
    values = [shown(control, own()) for control in CONTROLS]
    (figures,) = (part for part in answer(str(path), "60", *values[1:], "default", "plain") if isinstance(part, Div))
    text = str(figures)
    assert "A: SGLang's defaults is saturated: the backlog grew by" in text
    assert text.count("'not steady'") >= 10


def test_without_the_extra_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "dspark_tuning.reporting.ui.app")
    monkeypatch.setitem(sys.modules, "dash", None)
    ran = dspark("ui")
    assert ran.code == 2 and "pip install 'sglang-dspark[ui]'" in ran.err and ran.err.strip().count("\n") == 0


@pytest.mark.parametrize("name", names())
def test_every_packaged_scenario_moves(name: str) -> None:
    scenario = load(name)
    check_nothing_moves(scenario)
    with pytest.raises(RefusedError) as refused:
        moved(scenario, {})
    assert set(refused.value.lines) == {control.key for control in CONTROLS}


def test_other_names_for_this_machine_are_refused(address: str) -> None:
    request = urllib.request.Request(address, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request)
    for path in ("assets/../app.py", "assets/app.py", "assets/pyproject.toml"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(address + path)
    with urllib.request.urlopen(f"{address}_dash-layout") as answer:
        assert json.load(answer) and answer.headers["Content-Security-Policy"].startswith("default-src 'self'")


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = dspark("ui", "--port", taken.getsockname()[1])
    assert ran.code == 2 and "--port" in ran.err and ran.err.strip().count("\n") == 0
    assert dspark("ui", tmp_path / "none.yaml").code == 2
