"""The interactive page: elements, callbacks and server."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from importlib import resources
from pathlib import Path
from typing import Any

import dash
import yaml
from dash import Dash, Input, Output, State, dcc, html
from flask import Response

from dspark_simulator import scenario as scenarios
from dspark_simulator.scenario import Scenario
from dspark_simulator.simulation import Arm
from dspark_tuning.reporting.deployment import step_times
from dspark_tuning.reporting.page import PLOTLY
from dspark_tuning.reporting.ui import charts, compared
from dspark_tuning.reporting.ui.controls import CONTROLS, Control, RefusedError, help_of, moved, shown
from dspark_tuning.search import named_arms
from dspark_tuning.search.traced_run import TracedResult, trace
from sglang_dspark.errors import InputError
from sglang_dspark.policy import artifact

HOST = "127.0.0.1"
ASSETS = Path(__file__).parent / "assets"
SIDES = {"a": "default", "b": "aligned"}
SEED = 0
GRAPH: Any = PLOTLY
# With this policy the browser refuses requests to other hosts. Dash and its sliders start by inline scripts.
INLINE = "'self' 'unsafe-inline'"
POLICY = f"default-src 'self'; script-src {INLINE}; style-src {INLINE}; img-src 'self' data: blob:"
# Sliders double and halve a value; a typed number moves its slider.
SLIDE = """(slid, typed, start) => {
  const moved = dash_clientside.callback_context.triggered_id;
  if (moved && moved.endsWith("-slider")) {
    if (slid === 0) return [slid, start];
    const value = start * 2 ** slid;
    const whole = Number.isInteger(+start) && start > 1;
    return [slid, String(whole ? Math.max(1, Math.round(value)) : +value.toPrecision(3))];
  }
  const at = Math.log2(typed / start);
  return [Number.isFinite(at) ? Math.min(3, Math.max(-3, Math.round(at * 4) / 4)) : slid, typed];
}"""


def make(source: str) -> Dash:
    """Make the page for a packaged scenario or a scenario file.

    Raises:
        InputError: The scenario cannot be used.
    """
    scenario = scenarios.load(source)
    app = Dash("dspark", title="dspark", update_title="", serve_locally=True, assets_folder=str(ASSETS))
    app.index_string = _index()
    app.layout = _layout(source, scenario)
    # Refuse other host names, which a foreign page could resolve to this machine.
    app.server.config["TRUSTED_HOSTS"] = [HOST, "localhost"]

    @app.server.after_request
    def restrict(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        return response

    slide: Any = app.clientside_callback
    for control in CONTROLS:
        slide(
            SLIDE,
            Output(f"{control.key}-slider", "value"),
            Output(control.key, "value"),
            Input(f"{control.key}-slider", "value"),
            Input(control.key, "value"),
            State(f"{control.key}-start", "data"),
        )
    app.callback(
        [Output(f"{c.key}-start", "data") for c in CONTROLS],
        [Output(f"{c.key}-help", "children") for c in CONTROLS],
        [Output(c.key, "value", allow_duplicate=True) for c in CONTROLS],
        Output("about", "children"),
        Input("scenario", "value"),
        prevent_initial_call=True,
    )(_started)
    # A new scenario sets all values, so it triggers nothing itself.
    inputs: list[Any] = [
        State("scenario", "value"),
        *(Input(c.key, "value") for c in CONTROLS),
        *(Input(s, "value") for s in SIDES),
    ]
    app.callback(
        [Output(f"{key}-error", "children") for key in (*(c.key for c in CONTROLS), *SIDES)],
        Output("figures", "children"),
        Output("time", "figure"),
        Output("latencies", "figure"),
        Output("told", "children"),
        inputs,
    )(answer)
    states = [State(element.component_id, element.component_property) for element in inputs]
    app.callback(
        Output("file", "data"), Output("export-error", "children"), Input("export-scenario", "n_clicks"),
        [Input(f"export-{side}", "n_clicks") for side in SIDES], states, prevent_initial_call=True,
    )(_exported)  # fmt: skip
    return app


def _started(source: str) -> tuple[Any, ...]:
    try:
        scenario = scenarios.load(source)
    except InputError as error:
        # The file was valid when the page started.
        return *[dash.no_update] * 3 * len(CONTROLS), html.P(str(error), className="error", role="alert")
    starts = [shown(control, scenario) for control in CONTROLS]
    helps = [help_of(control, scenario) for control in CONTROLS]
    return *starts, *helps, *starts, _about(scenario)


def answer(source: str, *values: str) -> tuple[Any, ...]:
    """Simulate; return an error line for each control and policy, the results, both charts and a status line.

    Args:
        values: The values of the controls, then of both policies.
    """
    began = time.perf_counter()
    try:
        scenario, chosen = _parsed(source, values)
        runs = _looks(scenario, chosen)
    except RefusedError as refused:
        keys = [*(control.key for control in CONTROLS), *SIDES]
        return _unchanged([refused.lines.get(key, "") for key in keys], "a value is refused.")
    except InputError as error:
        return _unchanged([""] * (len(CONTROLS) + len(SIDES)), f"{error}.")
    measured = scenario.run.requests - scenario.run.warmup_requests
    simulated = " and ".join(f"{run.result.simulated_s:,.0f}" for _, run in runs)
    status = (
        f"{measured:,} requests measured, {simulated} simulated seconds on the same requests (seed {SEED}), live steps "
        f"in the middle of their range; took {time.perf_counter() - began:.1f} s."
    )
    return (
        *[""] * (len(CONTROLS) + len(SIDES)),
        charts.results(runs),
        charts.over_time(runs),
        charts.latencies(scenario, runs),
        status,
    )


def _looks(scenario: Scenario, chosen: list[Arm]) -> list[tuple[str, TracedResult]]:
    """Runs of both arms on the same requests, by name."""
    return [
        (f"{side.upper()}: {arm.name}", trace(scenario, arm, SEED)) for side, arm in zip(SIDES, chosen, strict=True)
    ]


def _unchanged(lines: list[str], why: str) -> tuple[Any, ...]:
    """The picture as it is, with a line for each control and side."""
    return *lines, *[dash.no_update] * 3, f"Not simulated: {why} The results shown are of the previous values."


def _parsed(source: str, values: tuple[str, ...]) -> tuple[Scenario, list[Arm]]:
    """The changed scenario and the two arms.

    Raises:
        RefusedError: An error line for each element with a bad value.
    """
    typed = dict(zip((control.key for control in CONTROLS), values, strict=False))
    start, lines, chosen = scenarios.load(source), {}, []
    try:
        scenario = moved(start, typed)
    except RefusedError as refused:
        # Check the policies too, so that all errors are shown at once.
        scenario, lines = start, refused.lines
    for side, text in zip(SIDES, values[len(CONTROLS) :], strict=True):
        try:
            chosen.append(compared.arm(text or "", scenario))
        except InputError as error:
            lines[side] = str(error)
    if lines:
        raise RefusedError(lines)
    return scenario, chosen


def _exported(*pressed_and_values: Any) -> tuple[Any, str]:
    source, *values = pressed_and_values[1 + len(SIDES) :]
    pressed = str(dash.ctx.triggered_id).removeprefix("export-")
    try:
        scenario, chosen = _parsed(source, tuple(values))
        if pressed == "scenario":
            text = yaml.safe_dump(scenario.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            return {"content": text, "filename": "scenario.yaml"}, ""
        made = compared.artifact_for(scenario, chosen[list(SIDES).index(pressed)])
    except RefusedError:
        return dash.no_update, "Nothing to export: a value is refused."
    except InputError as error:
        return dash.no_update, str(error)
    return {"content": artifact.dumps(made), "filename": f"policy-{pressed}.json"}, ""


def _about(scenario: Scenario) -> list[Any]:
    return [html.P(scenario.description), html.P(f"{scenario.model} on {scenario.hardware}. {step_times(scenario)}")]


def _layout(source: str, scenario: Scenario) -> html.Div:
    names = list(dict.fromkeys([source, *scenarios.names()]))
    return html.Div(
        [
            html.Header(
                [
                    html.H1("dspark"),
                    html.P("All figures are simulated; nothing here was measured on a GPU.", className="note"),
                ]
            ),
            html.Main(
                [
                    html.Form(
                        [
                            _field("scenario", "Scenario", dcc.Dropdown(names, source, id="scenario", clearable=False)),
                            *(_control(control, scenario) for control in CONTROLS),
                            *(_side(side, name) for side, name in SIDES.items()),
                            html.Div(
                                [
                                    html.Button("Scenario", id="export-scenario", type="button"),
                                    *(
                                        html.Button(f"Policy {side.upper()}", id=f"export-{side}", type="button")
                                        for side in SIDES
                                    ),
                                ],
                                className="exports",
                                role="group",
                                **_labelled("Export"),
                            ),
                            html.P(id="export-error", className="error", role="alert"),
                            dcc.Download(id="file"),
                            html.Datalist([html.Option(value=name) for name in compared.NAMES], id="arms"),
                        ],
                        id="controls",
                    ),
                    html.Section(
                        [
                            html.P(id="told", className="note", role="status"),
                            html.Div(
                                id="figures", className="scroll", tabIndex="0", role="region", **_labelled("Figures")
                            ),
                            html.Div(_about(scenario), id="about", className="note"),
                            html.H2("Over time"),
                            _graph("time", "Running and waiting requests, verify length and KV of A and B over time"),
                            html.H2("Latencies"),
                            html.P(
                                "Cumulative share of the requests (TTFT, TPOT) and of the tokens (ITL) by latency; "
                                "thin dotted lines are the SLOs.",
                                className="note",
                            ),
                            _graph("latencies", "Distributions of TTFT, TPOT and ITL of A and B"),
                        ],
                        **_labelled("Results"),
                    ),
                ]
            ),
        ]
    )


def _graph(key: str, text: str) -> html.Div:
    """A chart with a text alternative; the table above it holds its values."""
    return html.Div(dcc.Graph(id=key, config=GRAPH), role="img", **_labelled(text))


def _labelled(text: str) -> dict[str, Any]:
    return {"aria-label": text}


def _field(key: str, label: str, *elements: Any, kind: str = "field") -> html.Div:
    return html.Div([html.Label(label, htmlFor=key), *elements], className=kind)


def _control(control: Control, scenario: Scenario) -> html.Div:
    at = shown(control, scenario)
    return _field(
        control.key,
        control.label,
        dcc.Input(id=control.key, type="text", value=at, debounce=0.4, autoComplete="off"),
        html.Span(help_of(control, scenario), id=f"{control.key}-help", className="note"),
        dcc.Slider(-3, 3, 0.25, value=0, marks=None, allow_direct_input=False, id=f"{control.key}-slider"),
        dcc.Store(id=f"{control.key}-start", data=at),
        html.P(id=f"{control.key}-error", className="error", role="alert"),
        kind="field number",
    )


def _side(side: str, name: str) -> html.Div:
    return _field(
        side,
        f"Policy {side.upper()}",
        dcc.Input(id=side, type="text", value=name, list="arms", debounce=0.6, autoComplete="off"),
        html.Span(f"{named_arms.ARMS.replace(' or ', ', ')}, or the path of a policy.json", className="note"),
        html.P(id=f"{side}-error", className="error", role="alert"),
    )


def _index() -> str:
    report = (resources.files("dspark_tuning.reporting") / "page.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
{{%metas%}}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{%title%}}</title>
<link rel="icon" href="data:,">
{{%css%}}
<style>
{report}</style>
</head>
<body>
{{%app_entry%}}
{{%config%}}
{{%scripts%}}
{{%renderer%}}
</body>
</html>"""


def serve(source: str, port: int) -> None:
    """Serve the page on this machine only, until interrupted.

    Raises:
        InputError: The scenario cannot be used or simulated, or the port is taken.
    """
    from werkzeug.serving import make_server

    app = make(source)
    # No log line for every request.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((HOST, port))
        except OSError as error:
            raise InputError(f"port: {port} on {HOST} cannot be opened ({error.strerror}); choose another") from error
        print("Simulating once; the first time on a machine compiles, for up to a minute.", flush=True)
        first = scenarios.load(source)
        _looks(*_parsed(source, (*(shown(control, first) for control in CONTROLS), *SIDES.values())))
        opened.listen()
        server = make_server(HOST, port, app.server, threaded=True, fd=opened.fileno())
        print(f"Serving http://{HOST}:{opened.getsockname()[1]}/ until interrupted.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
