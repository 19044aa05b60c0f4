"""Workloads: their distributions, rows that depend on the seed only, and bad input."""

from __future__ import annotations

import tracemalloc
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import integrate, stats

from dspark_simulator.workloads import (
    REQUEST,
    Arrivals,
    Closed,
    Empirical,
    Fixed,
    Gamma,
    Lengths,
    Lognormal,
    Poisson,
    RequestClass,
    Slo,
    Trace,
    Uniform,
    Varying,
    Workload,
)
from dspark_simulator.workloads.sampling import normal_quantile
from sglang_dspark.errors import InputError, from_validation
from tests.published_data import published

DAY = Varying(points=((0.0, 2.0), (10.0, 8.0), (20.0, 0.0), (30.0, 0.0), (35.0, 4.0)))
OPEN = [Poisson(rate_per_s=5.0), Gamma(rate_per_s=5.0, burstiness=2.5), DAY]
SLO = Slo(ttft_s=1.0, tpot_s=0.05)
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
TINY = HEADER + "2023-11-16 18:00:00.0000000,100,10\n2023-11-16 18:00:01.5000000,0,0\n2023-11-16 18:00:04.0000000,7,3\n"


def a_class(name: str = "chat", **fields: Any) -> RequestClass:
    lengths = {"prompt": Lognormal(mean=800.0, sigma=1.0), "output": Uniform(min=1, max=300)}
    return RequestClass(**{"name": name, "domain": "chat", "slo": SLO, **lengths, **fields})


def rows_of(arrivals: Arrivals, *classes: RequestClass, count: int = 20_000, seed: int = 3) -> np.ndarray:
    workload = Workload(arrivals=arrivals, classes=classes or (a_class(),))
    return next(workload.chunks(seed, count))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


# Arrivals


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(rows_of(Poisson(rate_per_s=5.0))["arrival_s"], prepend=0.0)
    assert stats.kstest(gaps, stats.expon(scale=0.2).cdf).pvalue > 0.01


@pytest.mark.parametrize("burstiness", [0.4, 1.0, 2.5])
def test_gamma_gaps_are_gamma(burstiness: float) -> None:
    gaps = np.diff(rows_of(Gamma(rate_per_s=5.0, burstiness=burstiness))["arrival_s"], prepend=0.0)
    exact = stats.gamma(burstiness**-2, scale=burstiness**2 / 5.0)
    assert stats.kstest(gaps, exact.cdf).pvalue > 0.01
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.05)
    if burstiness != 1.0:
        assert stats.kstest(gaps, stats.expon(scale=0.2).cdf).pvalue < 1e-6


def test_varying_follows_its_rate() -> None:
    """By the time-rescaling theorem, arrivals seen through the integrated rate are a unit Poisson process."""
    times = rows_of(DAY)["arrival_s"]
    grid = np.linspace(0.0, 35.0, 350_001)
    points = np.array(DAY.points)
    integral = integrate.cumulative_trapezoid(np.interp(grid, *points.T), grid, initial=0.0)
    rescaled = times // 35.0 * integral[-1] + np.interp(times % 35.0, grid, integral)
    assert stats.kstest(np.diff(rescaled, prepend=0.0), stats.expon.cdf).pvalue > 0.01
    assert DAY.mean_rate_per_s == pytest.approx(100.0 / 35.0)
    assert len(times) / times[-1] == pytest.approx(100.0 / 35.0, rel=0.03)
    phase = times % 35.0
    assert not ((phase > 20.0) & (phase < 30.0)).any()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0.01, 100.0), st.one_of(st.just(0.0), st.floats(0.01, 100.0))), min_size=1, max_size=6)
)
def test_varying_never_goes_back(steps: list[tuple[float, float]]) -> None:
    assume(any(rate for _, rate in steps))
    times = np.cumsum([step_s for step_s, _ in steps])
    points = ((0.0, 0.0), *((float(time), rate) for time, (_, rate) in zip(times, steps, strict=True)))
    arrivals = rows_of(Varying(points=points), count=500)["arrival_s"]
    assert np.isfinite(arrivals).all()
    assert (np.diff(arrivals, prepend=0.0) >= 0.0).all()


def test_closed_loop_has_no_arrival_times() -> None:
    workload = Workload(arrivals=Closed(clients=12), classes=(a_class(),))
    rows = next(workload.chunks(0, 500))
    assert not rows["arrival_s"].any()
    assert workload.clients == 12
    assert workload.with_rate(2.0).clients is None


@pytest.mark.parametrize("arrivals", [*OPEN, Closed(clients=4), "trace"], ids=lambda a: getattr(a, "kind", a))
def test_rows_do_not_depend_on_the_chunk_size(arrivals: Arrivals | str, tmp_path: Path) -> None:
    if arrivals == "trace":
        arrivals = Trace(path=written(tmp_path, TINY))
    classes = (a_class(cached_prefix=0.3), a_class("code", share=2.0, prompt=Empirical(values=(5, 9, 9))))
    workload = Workload(arrivals=arrivals, classes=classes)
    whole = next(workload.chunks(8, 2_000))
    assert whole.dtype == REQUEST
    np.testing.assert_array_equal(whole["id"], np.arange(2_000))
    assert (np.diff(whole["arrival_s"]) >= 0.0).all()
    for size in (1, 7, 1_000):
        pieces = islice(workload.chunks(8, size), -(-2_000 // size))
        assert np.concatenate(list(pieces))[:2_000].tobytes() == whole.tobytes()
    if not isinstance(arrivals, Trace):
        assert next(workload.chunks(9, 2_000)).tobytes() != whole.tobytes()


def test_memory_does_not_grow_with_requests() -> None:
    chunks = Workload(arrivals=Poisson(rate_per_s=5.0), classes=(a_class(),)).chunks(1)
    next(chunks)
    tracemalloc.start()
    for _ in islice(chunks, 200):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_another_rate_keeps_the_requests(tmp_path: Path) -> None:
    for arrivals in (*OPEN, Trace(path=written(tmp_path, TINY))):
        workload = Workload(arrivals=arrivals, classes=(a_class(),))
        fast = workload.scaled(4.0)
        assert fast.arrivals.mean_rate_per_s == pytest.approx(4.0 * arrivals.mean_rate_per_s)
        assert workload.with_rate(7.0).arrivals.mean_rate_per_s == pytest.approx(7.0)
        assert fast.arrivals.kind == arrivals.kind
        before, after = next(workload.chunks(2, 300)), next(fast.chunks(2, 300))
        np.testing.assert_array_equal(before[["prompt", "output"]], after[["prompt", "output"]])
        if not isinstance(arrivals, Varying):
            np.testing.assert_allclose(after["arrival_s"], before["arrival_s"] / 4.0)
    clients = Workload(arrivals=OPEN[0], classes=(a_class(),)).with_clients(3)
    assert clients.clients == 3
    np.testing.assert_array_equal(next(clients.chunks(2, 300))["prompt"], rows_of(OPEN[0], seed=2, count=300)["prompt"])


# Lengths, classes, prefixes


def test_normal_quantile() -> None:
    p = np.concatenate((np.logspace(-15, -1, 200), np.linspace(0.1, 0.9, 100), 1.0 - np.logspace(-1, -15, 200)))
    np.testing.assert_allclose([normal_quantile(x) for x in p], stats.norm.ppf(p), rtol=1e-8, atol=1e-9)


def test_lognormal_lengths() -> None:
    prompt = rows_of(OPEN[0], a_class(prompt=Lognormal(mean=800.0, sigma=0.8)), count=100_000)["prompt"]
    assert prompt.mean() == pytest.approx(800.0, rel=0.01)
    assert np.median(prompt) == pytest.approx(800.0 * np.exp(-0.32), rel=0.01)
    assert np.log(prompt).std() == pytest.approx(0.8, rel=0.01)


def test_lognormal_bounds_gather_what_lies_beyond() -> None:
    spec = Lognormal(mean=800.0, sigma=0.8, min=200, max=1500)
    prompt = rows_of(OPEN[0], a_class(prompt=spec), count=50_000)["prompt"]
    exact = stats.lognorm(0.8, scale=800.0 * np.exp(-0.32))
    assert prompt.min() == 200
    assert prompt.max() == 1500
    assert (prompt == 200).mean() == pytest.approx(exact.cdf(200.5), abs=0.005)
    assert (prompt == 1500).mean() == pytest.approx(exact.sf(1499.5), abs=0.005)


@pytest.mark.parametrize(
    ("lengths", "values", "weights"),
    [
        (Fixed(tokens=512), [512], [1.0]),
        (Uniform(min=3, max=6), [3, 4, 5, 6], [0.25] * 4),
        (Empirical(values=(10, 70, 70, 500)), [10, 70, 500], [0.25, 0.5, 0.25]),
    ],
    ids=["fixed", "uniform", "empirical"],
)
def test_discrete_lengths(lengths: Lengths, values: list[int], weights: list[float]) -> None:
    seen, counts = np.unique(rows_of(OPEN[0], a_class(output=lengths))["output"], return_counts=True)
    assert seen.tolist() == values
    np.testing.assert_allclose(counts / counts.sum(), weights, atol=0.012)


def test_classes_come_by_share_and_bring_their_lengths() -> None:
    classes = [a_class(f"c{size}", share=share, prompt=Fixed(tokens=size)) for size, share in ((1, 3), (2, 1), (4, 6))]
    rows = rows_of(OPEN[0], *classes)
    counts = np.bincount(rows["slo_class"])
    assert stats.chisquare(counts, np.array([0.3, 0.1, 0.6]) * len(rows)).pvalue > 0.01
    np.testing.assert_array_equal(rows["prompt"], np.array([1, 2, 4])[rows["slo_class"]])


def test_columns_are_independent() -> None:
    rows = rows_of(Poisson(rate_per_s=5.0), a_class(cached_prefix=0.5), a_class("code"))
    rounding = np.where(rows["slo_class"] == 0, rows["cached"] - 0.5 * rows["prompt"], 0.0)
    gaps = np.diff(rows["arrival_s"], prepend=0.0)
    correlation = np.corrcoef([gaps, rows["slo_class"], np.log(rows["prompt"]), rows["output"], rounding])
    assert np.abs(correlation - np.eye(5)).max() < 4.0 / np.sqrt(len(rows))


@pytest.mark.parametrize("fraction", [0.0, 0.37, 1.0])
def test_cached_prefix_holds_on_average(fraction: float) -> None:
    rows = rows_of(OPEN[0], a_class(prompt=Fixed(tokens=25), cached_prefix=fraction))
    assert (rows["cached"] < rows["prompt"]).all()
    assert rows["cached"].mean() == pytest.approx(min(25 * fraction, 24), abs=0.015)
    assert np.ptp(rows["cached"]) <= 1


# Traces


@pytest.mark.parametrize("name", ["azure_llm_2023_conv.csv", "azure_llm_2023_code.csv"])
@pytest.mark.parametrize("rate_scale", [1.0, 2.5])
def test_replay_of_the_azure_traces(name: str, rate_scale: float) -> None:
    path = published(name)
    table = pd.read_csv(path, parse_dates=["TIMESTAMP"])
    recorded_s = (table["TIMESTAMP"] - table["TIMESTAMP"].iloc[0]).dt.total_seconds().to_numpy()
    replay = Trace(path=path, rate_scale=rate_scale)
    first, second = islice(
        Workload(arrivals=replay, classes=(a_class(prompt=None, output=None),)).chunks(0, len(table)), 2
    )
    for rows in (first, second):
        np.testing.assert_array_equal(rows["prompt"], table["ContextTokens"])
        np.testing.assert_array_equal(rows["output"], table["GeneratedTokens"])
    np.testing.assert_allclose(first["arrival_s"] * rate_scale, recorded_s, rtol=0.0, atol=2e-6)
    shift = recorded_s[-1] + np.diff(recorded_s).mean()
    np.testing.assert_allclose(second["arrival_s"] * rate_scale, recorded_s + shift, rtol=0.0, atol=1e-5)
    assert replay.mean_rate_per_s == pytest.approx(rate_scale / np.diff(recorded_s).mean())


def test_trace_lengths_of_zero_count_as_one(tmp_path: Path) -> None:
    rows = rows_of(Trace(path=written(tmp_path, TINY)), count=7, seed=0)
    assert rows["prompt"].tolist() == [100, 1, 7, 100, 1, 7, 100]
    assert rows["output"].tolist() == [10, 1, 3, 10, 1, 3, 10]
    assert rows["arrival_s"].tolist() == [0.0, 1.5, 4.0, 6.0, 7.5, 10.0, 12.0]


def test_trace_rows_are_sorted_by_time_whatever_their_form(tmp_path: Path) -> None:
    text = (
        "\ufeffGeneratedTokens,region,ContextTokens, TIMESTAMP \r\n"
        "3,west,30,2024-05-10 00:00:02+00:00\r\n\r\n"
        "1,east,10,2024-05-10T00:00:00\r\n"
        "4,east,40,2024-05-10 02:00:02+02:00\r\n"
        "2,east,20,2024-05-10 00:00:01"
    )
    rows = rows_of(Trace(path=written(tmp_path, text)), count=4, seed=0)
    assert rows["arrival_s"].tolist() == [0.0, 1.0, 2.0, 2.0]
    assert rows["prompt"].tolist() == [10, 20, 30, 40]
    assert rows["output"].tolist() == [1, 2, 3, 4]


def test_requests_at_one_time_keep_the_order_of_the_file(tmp_path: Path) -> None:
    lines = [f"2024-05-10 00:00:0{second},{place},1" for place, second in enumerate([1, 0] * 50, start=1)]
    rows = rows_of(Trace(path=written(tmp_path, HEADER + "\n".join(lines))), count=100, seed=0)
    assert rows["prompt"].tolist() == [*range(2, 101, 2), *range(1, 101, 2)]


def test_trace_path_starts_from_the_scenario(tmp_path: Path) -> None:
    written(tmp_path, TINY)
    described = {
        "arrivals": {"kind": "trace", "path": "trace.csv"},
        "classes": [{"name": "chat", "domain": "chat", "slo": {"ttft_s": 1, "tpot_s": 0.1}}],
    }
    workload = Workload.model_validate(described, context={"base": tmp_path})
    assert isinstance(workload.arrivals, Trace)
    assert workload.arrivals.path == tmp_path / "trace.csv"
    again = Workload.model_validate_json(workload.model_dump_json())
    assert next(again.chunks(0, 9)).tobytes() == next(workload.chunks(0, 9)).tobytes()


# Bad input

CHAT = {
    "name": "chat",
    "domain": "chat",
    "prompt": {"kind": "fixed", "tokens": 10},
    "output": {"kind": "fixed", "tokens": 10},
    "slo": {"ttft_s": 1.0, "tpot_s": 0.05},
}
STEADY = {"kind": "poisson", "rate_per_s": 1.0}


@pytest.mark.parametrize(
    ("arrivals", "classes", "said"),
    [
        ({**STEADY, "rate_per_s": -1.0}, [CHAT], ["arrivals.poisson.rate_per_s", "-1.0", "greater than 0"]),
        ({**STEADY, "rate_per_s": float("nan")}, [CHAT], ["rate_per_s", "nan", "finite"]),
        ({**STEADY, "rate": 2}, [CHAT], ["arrivals.poisson.rate", "unknown field"]),
        ({"kind": "poison"}, [CHAT], ["arrivals", "poison", "'poisson'"]),
        ({"kind": "gamma", "rate_per_s": 1.0, "burstiness": 0}, [CHAT], ["gamma.burstiness", "0 is not valid"]),
        ({"kind": "closed", "clients": 0}, [CHAT], ["closed.clients", "0 is not valid"]),
        ({"kind": "varying", "points": [[0, 1]]}, [CHAT], ["points", "at least 2"]),
        ({"kind": "varying", "points": [[0, 1], [5, -2]]}, [CHAT], ["points.1.1", "-2"]),
        ({"kind": "varying", "points": [[1, 1], [5, 2]]}, [CHAT], ["points", "start at 0"]),
        ({"kind": "varying", "points": [[0, 1], [5, 2], [5, 3]]}, [CHAT], ["points", "increasing times"]),
        ({"kind": "varying", "points": [[0, 0], [5, 0]]}, [CHAT], ["points", "positive"]),
        (STEADY, [], ["classes", "at least 1"]),
        (STEADY, [{**CHAT, "share": 0}], ["classes.0.share", "0 is not valid"]),
        (STEADY, [{**CHAT, "cached_prefix": 1.5}], ["classes.0.cached_prefix", "1.5"]),
        (STEADY, [CHAT, CHAT], ["classes", "'chat'", "own name"]),
        (STEADY, [{**CHAT, "prompt": None}], ["'chat' has no prompt"]),
        (STEADY, [{**CHAT, "prompt": {"kind": "fixed", "tokens": 0}}], ["prompt.fixed.tokens", "0 is not valid"]),
        (STEADY, [{**CHAT, "output": {"kind": "uniform", "min": 9, "max": 5}}], ["output.uniform", "above max 5"]),
        (STEADY, [{**CHAT, "output": {"kind": "empirical", "values": []}}], ["empirical.values", "at least 1"]),
        (STEADY, [{**CHAT, "slo": {"ttft_s": 1.0}}], ["classes.0.slo.tpot_s", "missing"]),
    ],
)
def test_bad_descriptions_are_named(arrivals: dict[str, Any], classes: list[dict[str, Any]], said: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Workload.model_validate({"arrivals": arrivals, "classes": classes})
    message = str(from_validation(caught.value, "scenario.yaml"))
    assert "\n" not in message
    for part in ("scenario.yaml", *said):
        assert part in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["is empty"]),
        (HEADER, ["no requests"]),
        ("TIMESTAMP,ContextTokens,Output\n", ["column GeneratedTokens", "TIMESTAMP, ContextTokens, Output"]),
        (TINY + "2023-11-16 18:00:05,1.5,2\n", ["row 4", "ContextTokens", "'1.5'"]),
        (TINY + "2023-11-16 18:00:05,1,-2\n", ["row 4", "GeneratedTokens", "'-2'"]),
        (TINY + "2023-11-16 18:00:05,many,2\n", ["row 4", "ContextTokens", "'many'"]),
        (TINY + "yesterday,1,2\n", ["row 4", "TIMESTAMP", "'yesterday'"]),
        (TINY + "2023-11-16 18:00:05,1\n", ["line 5", "2 fields under 3 columns"]),
        (HEADER + "2023-11-16 18:00:05,1,2\n", ["arrival", "two times"]),
        ('"unfinished' + "x" * 200_000, ["no known trace"]),
    ],
)
def test_bad_traces_are_named(tmp_path: Path, text: str, said: list[str]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValidationError) as caught:
        Trace(path=path)
    message = str(from_validation(caught.value, "--trace"))
    assert "\n" not in message
    for part in (str(path), *said):
        assert part in message


def test_a_trace_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name, said in (("absent.csv", "No such file"), (".", "Is a directory"), ("binary.csv", "no UTF-8 text")):
        with pytest.raises(ValidationError, match=said):
            Trace(path=tmp_path / name)


def test_bad_changes_are_refused(tmp_path: Path) -> None:
    steady = Workload(arrivals=Poisson(rate_per_s=1.0), classes=(a_class(),))
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"rate_per_s: {bad}"):
            steady.with_rate(bad)
        with pytest.raises(InputError, match=f"rate_factor: {bad}"):
            steady.scaled(bad)
    with pytest.raises(InputError, match="clients: 0"):
        steady.with_clients(0)
    with pytest.raises(InputError, match="closed loop"):
        steady.with_clients(2).scaled(2.0)


def test_a_trace_in_a_closed_loop_keeps_its_lengths(tmp_path: Path) -> None:
    replay = Workload(arrivals=Trace(path=written(tmp_path, TINY)), classes=(a_class(prompt=None, output=None),))
    whole, closed = (next(one.chunks(0, 2000)) for one in (replay, replay.with_clients(2)))
    for field in ("prompt", "output"):
        assert set(closed[field]) == set(whole[field])
        assert closed[field].mean() == pytest.approx(whole[field].mean(), rel=0.05)
    assert a_class(prompt=None).slo == replay.with_own_lengths()[0].slo
