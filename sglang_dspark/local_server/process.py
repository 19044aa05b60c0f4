"""A SGLang server of the demo pair in a subprocess on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from sglang_dspark.demo import DRAFT, TARGET
from sglang_dspark.sglang_client import Client, UnansweredError

START_S: Final = 900.0
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
    # Otherwise an idle scheduler keeps a core busy.
    "--sleep-on-idle": "",
}

DSPARK: Final = {
    "--speculative-algorithm": "DSPARK",
    "--speculative-draft-model-path": str(DRAFT),
    "--speculative-draft-attention-backend": "torch_native",
}

# Timing on a shared machine is noisy: steps slower than believed must not switch the policy off.
NO_FALLBACK: Final = {"--speculative-dspark-fallback-margin": "0"}


class ServerProcess(Client):
    """A client of a server that runs in a subprocess while the ``with`` block lasts.

    Attributes:
        log: The file of its output.
        command: Its command line.
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
            log: The file to write the server's output to.
            flags: Added to ``FLAGS`` or replacing them; a flag without a value has "".
            environment: Added to this process's environment and ``ENVIRONMENT``.
            launcher: Arguments of Python that start a server.
            start_s: The longest time to start.
        """
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        self.log = log
        merged = {**FLAGS, **(flags or {}), "--host": "127.0.0.1", "--port": str(port)}
        words: list[str] = []
        for flag, value in merged.items():
            words += [flag, *([value] if isinstance(value, str) and value else value)]
        self.command = [sys.executable, *launcher, *words]
        self._start_s = start_s
        self._environment = {**os.environ, **ENVIRONMENT, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process without waiting until it serves."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, env=self._environment, start_new_session=True
            )
        return self._process

    @property
    def ended(self) -> bool:
        """Whether the process is not running."""
        process = self._process
        return process is None or process.poll() is not None

    def __enter__(self) -> ServerProcess:
        process = self.start()
        try:
            deadline = time.monotonic() + self._start_s
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    self.send("/health", timeout_s=5)
                    return self
                except (urllib.error.HTTPError, UnansweredError):
                    time.sleep(0.5)
        except BaseException:  # Interrupted while waiting: nothing else would stop the server.
            self.stop()
            raise
        self.stop()
        raise RuntimeError(f"the server did not start; the end of {self.log}:\n{self.tail()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server and all of its processes."""
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

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Find a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
