"""A stage of the GPU check: a sequence of cells whose failures and hangs do not affect later cells."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Final

import pyarrow.parquet as pq

from sglang_dspark.files import write_atomically
from sglang_dspark.gpu_check import environment
from sglang_dspark.local_server.process import ServerProcess

PACKAGES: Final = ("torch", "triton", "transformers", "sglang", "numba", "numpy")
KEPT_BYTES: Final = 400_000
START_S: Final = 240.0
LEAST_STEPS: Final = 8
REHEARSAL: Final = "cpu rehearsal"

Flags = Mapping[str, str | Sequence[str]]


class Stage:
    """The results of a stage, written to ``NAME.json`` after every cell.

    Attributes:
        out: The stage's folder, with ``NAME.json``, recordings and logs.
        rehearses: Whether it runs on SGLang's CPU engine, whose times say nothing about a GPU.
    """

    def __init__(self, name: str, out: Path, budget_s: float, rehearses: bool) -> None:
        self.out, self.rehearses = out, rehearses
        self._name = name
        self._end_s = time.monotonic() + budget_s
        out.mkdir(parents=True, exist_ok=True)
        self._cells: dict[str, Any] = {}
        self._servers: dict[str, Any] = {}
        self._content: dict[str, Any] = {
            "stage": name,
            "device": REHEARSAL if rehearses else _gpu(),
            "budget_s": budget_s,
            "python": platform.python_version(),
            "packages": {package: _version(package) for package in PACKAGES},
            "servers": self._servers,
            "cells": self._cells,
        }

    @classmethod
    def of_command(cls, name: str, about: str | None, budget_s: float, arguments: Sequence[str] | None = None) -> Stage:
        """Make a stage from a command line, and have the process stop its servers when it is terminated."""
        parser = argparse.ArgumentParser(prog=f"python -m sglang_dspark.gpu_check.{name}", description=about)
        parser.add_argument("--out", type=Path, required=True, help="folder for results, recordings and logs")
        parser.add_argument(
            "--budget-s",
            type=float,
            default=budget_s,
            help=f"seconds after which no cell starts (default {budget_s:g})",
        )
        parser.add_argument("--rehearse", action="store_true", help="on this machine's CPU, small")
        options = parser.parse_args(arguments)
        # Servers run in their own sessions and would outlive this process.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return cls(name, options.out, options.budget_s, options.rehearse)

    @property
    def left_s(self) -> float:
        """Remaining seconds of the budget."""
        return self._end_s - time.monotonic()

    def note(self, **fields: Any) -> None:
        """Add fields to the stage's file."""
        self._content.update(fields)
        self._write()

    def note_of(self, name: str, call: Callable[[], Any]) -> None:
        """Add a field computed from a server's files, or the reason of a failure; the time left does not matter."""
        try:
            self.note(**{name: call()})
        except Exception as error:
            self.note(**{name: {"failed": f"{type(error).__name__}: {error}"[:2000]}})

    def run(
        self, name: str, call: Callable[[], Any], server: ServerProcess | None = None, limit_s: float = 90.0
    ) -> Any:
        """Run a cell and keep its result, or the reason of its failure.

        Args:
            name: Of the cell.
            call: Computes the result.
            server: Stopped if the cell takes longer than ``limit_s``, so that nothing waits for it.
            limit_s: The longest time of the cell.

        Returns:
            The result of ``call``; None where it failed or was skipped for lack of time.
        """
        if self.left_s <= 0 or (server is not None and server.ended):
            self._cells[name] = {"skipped": "no time left" if self.left_s <= 0 else "its server has ended"}
            self._write()
            return None
        print(f"{self._name}: {name} ({self.left_s:.0f} s left)", flush=True)
        hung = threading.Event()

        def end() -> None:
            hung.set()
            if server is not None:
                server.stop()

        watchdog = threading.Timer(limit_s, end)
        watchdog.daemon = True
        started_s = time.monotonic()
        watchdog.start()
        result = None
        try:
            result = call()
            cell: dict[str, Any] = {"result": result}
        except Exception as error:
            cell = {"failed": f"{type(error).__name__}: {error}"[:2000], "where": traceback.format_exc()[-3000:]}
            print(f"{self._name}: {name} failed: {cell['failed'][:300]}", file=sys.stderr, flush=True)
        finally:
            watchdog.cancel()
        if hung.is_set():
            cell["hung"] = f"its server was ended after {limit_s:g} s"
        self._cells[name] = cell | {"took_s": round(time.monotonic() - started_s, 2)}
        self._write()
        return result

    def warm(self, head_dim: int, kv_heads: int) -> None:
        """Start compiling the first server's kernels in the background; does nothing on a CPU."""
        if self.rehearses:
            return
        command = [sys.executable, "-m", "sglang_dspark.gpu_check.warm", str(head_dim), str(kv_heads)]
        with (self.out / "warm.log").open("wb") as log:
            subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **self._environment()})

    def _environment(self) -> dict[str, str]:
        if self.rehearses:
            return environment.plugins(self.out)
        return environment.gpu(self.out, self.out.parent / "cache")

    @contextmanager
    def server(
        self, name: str, flags: Flags, variables: Mapping[str, str] | None = None
    ) -> Iterator[ServerProcess | None]:
        """Run a server while the block lasts; None where no time is left or it does not start.

        Its log is kept, without the middle where it is long.
        """
        if self.left_s <= 0:
            self._servers[name] = {"skipped": "no time left"}
            self._write()
            yield None
            return
        log = self.out / f"{name.replace(' ', '-')}.log"
        server = ServerProcess(
            log, flags, {**self._environment(), **(variables or {})}, start_s=min(START_S, max(self.left_s, 60.0))
        )
        print(f"{self._name}: server {name} ({self.left_s:.0f} s left)", flush=True)
        started_s = time.monotonic()
        about: dict[str, Any] = {"command": server.command[1:], "variables": dict(variables or {})}
        self._servers[name] = about
        try:
            with server:
                about["start_s"] = round(time.monotonic() - started_s, 1)
                self._write()
                yield server
        except RuntimeError as error:
            if "start_s" in about:
                raise
            about["failed"] = str(error)[-4000:]
            print(f"{self._name}: server {name} did not start; see {log}", file=sys.stderr, flush=True)
            yield None
        finally:
            about["log"] = _facts(log)
            _shorten(log)
            self._write()

    def _write(self) -> None:
        write_atomically(self.out / f"{self._name}.json", json.dumps(self._content, indent=1, default=str) + "\n")


def steps(recorded: Path, loads: Sequence[int] = ()) -> dict[str, Any]:
    """Summarise a recording's decode steps: counts by execution, and step times of loads with enough steps.

    Args:
        recorded: A file of ``dspark record``, or the recorder's folder.
        loads: Numbers of requests to report; all by default.
    """
    recording = pq.read_table(recorded).to_pandas()
    decoded = recording[recording["kind"] == "decode"]
    packed = [len(set(lengths)) > 1 for lengths in decoded["verify_length"]]
    timed = decoded[decoded["step_s"].notna()].assign(
        drafted=decoded["drafted_tokens"] > 0, length=decoded["verify_tokens"] / decoded["requests"] - 1
    )
    rows = []
    for (requests, drafted, length), part in timed.groupby(["requests", "drafted", "length"]):
        if len(part) >= LEAST_STEPS and (not loads or requests in loads):
            row = {"requests": int(requests), "drafted": bool(drafted), "verify_length": float(length)}
            ms = sorted(1000 * part["step_s"])
            spread = {"p10_ms": ms[len(ms) // 10], "median_ms": median(ms), "p90_ms": ms[9 * len(ms) // 10]}
            rows.append(row | spread | {"steps": len(ms), "graphs": float(part["tier"].notna().mean())})
    return {
        "decode_steps": len(decoded),
        "in_graphs": float(decoded["tier"].notna().mean()),
        "of_unequal_lengths": sum(packed),
        "without_a_draft": int((decoded["drafted_tokens"] == 0).sum()),
        "step_times": rows,
    }


def _facts(log: Path) -> list[str]:
    """Return the lines of a server's log about captured graphs, chosen backends and errors."""
    words = ("apture", "raph", "kernels", "speculative-dspark", "Initialized DSpark", "backend", "Error", "JIT")
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return [line[:300] for line in lines if any(word in line for word in words) and "server_args" not in line][:80]


def _shorten(log: Path) -> None:
    if not log.exists() or log.stat().st_size <= 2 * KEPT_BYTES:
        return
    text = log.read_bytes()
    log.write_bytes(text[:KEPT_BYTES] + b"\n[...]\n" + text[-KEPT_BYTES:])


def _gpu() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({error})"
    return answer.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
