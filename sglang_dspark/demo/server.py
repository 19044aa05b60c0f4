"""A real SGLang server on this machine, started for a while: ``sglang.launch_server`` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from sglang_dspark.demo import DRAFT, TARGET

START_S: Final = 300.0
STOP_S: Final = 30.0

ENVIRONMENT: Final = {
    # Two threads on busy cores are slower than one.
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

FLAGS: Final = {
    "--model-path": str(TARGET),
    "--device": "cpu",
    "--attention-backend": "torch_native",
    "--dtype": "float32",
    "--max-total-tokens": "32768",
    "--max-running-requests": "16",
    "--context-length": "2048",
    "--random-seed": "0",
    "--skip-server-warmup": "",
    # An idle scheduler would keep a core busy.
    "--sleep-on-idle": "",
}

DSPARK: Final = {
    "--speculative-algorithm": "DSPARK",
    "--speculative-draft-model-path": str(DRAFT),
    "--speculative-draft-attention-backend": "torch_native",
}


class Server:
    """A server of the demo pair, from ``with`` to its end.

    Attributes:
        url: Where it listens.
        log: What it printed.
    """

    def __init__(
        self,
        log: Path,
        flags: Mapping[str, str | Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        launcher: tuple[str, ...] = ("-m", "sglang.launch_server"),
        start_s: float = START_S,
    ) -> None:
        """
        Args:
            flags: Added to ``FLAGS`` or replacing them; a flag without a value has "".
            environment: Added to this process's and ``ENVIRONMENT``.
            launcher: Arguments of Python that start a server.
            start_s: How long it may take to start.
        """
        self.log = log
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        merged = {**FLAGS, **(flags or {}), "--host": "127.0.0.1", "--port": str(port)}
        words: list[str] = []
        for flag, value in merged.items():
            words += [flag, *([value] if isinstance(value, str) and value else value)]
        self._start_s = start_s
        self.command = [sys.executable, *launcher, *words]
        self._environment = {**os.environ, **ENVIRONMENT, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Starts the process and does not wait for it to serve."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )
        return self._process

    @property
    def ended(self) -> bool:
        """Whether it does not run any more, or not yet."""
        process = self._process
        return process is None or process.poll() is not None

    def __enter__(self) -> Server:
        process = self.start()
        try:
            deadline = time.monotonic() + self._start_s
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                        return self
                except (urllib.error.URLError, ConnectionError, TimeoutError):
                    time.sleep(0.5)
        except BaseException:  # Who waits is ended: no one else would end the server.
            self.stop()
            raise
        self.stop()
        raise RuntimeError(f"the server did not start; the end of {self.log}:\n{self.tail()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server and all of its processes."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        # Its children are in its session; after a crash SGLang's main process would wait for a minute.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def post(self, path: str, content: Mapping[str, Any], timeout_s: float = 300.0) -> Any:
        """Posts JSON and returns what comes back, read as JSON where it is.

        Raises:
            urllib.error.HTTPError: The server refused.
        """
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return json.loads(answer.read() or b"null")

    def get(self, path: str, timeout_s: float = 60.0) -> str:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=timeout_s) as answer:
            return str(answer.read().decode())

    def state(self) -> dict[str, Any]:
        """The scheduler's internal state, of the first data-parallel rank."""
        return dict(json.loads(self.get("/get_server_info"))["internal_states"][0])

    def tell(self, **numbers: float) -> bool:
        """Sets scheduler state through ``/set_internal_state``; whether it was accepted."""
        return all(self.post("/set_internal_state", {"server_args": numbers}))

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
