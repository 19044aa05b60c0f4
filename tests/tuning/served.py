"""A server that speaks SGLang's HTTP as far as recording and loading need it, and does what a test tells it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GAMMA = 3

Stream = Callable[[dict[str, Any]], list[int]]
"""The tokens of each event of an answer to a ``/generate``; a total below what was asked for ends in an abort."""


class Fake:
    """What the server is and has been told.

    Attributes:
        state: Of its one scheduler, or its several.
        info: Whatever else ``/server_info`` says.
        tellable: Keys of ``/set_internal_state`` that it takes.
        told: What it was told.
        cleared: Called when the records are cleared.
        asked: Bodies of all requests.
    """

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = [{"startup_time": 1.0}]
        self.info: dict[str, Any] = {"version": "0.5.23", "model_path": "target", "device": "cpu"}
        self.tellable: set[str] = set()
        self.told: list[dict[str, Any]] = []
        self.cleared: Callable[[], None] = lambda: None
        self.broken = 0
        self.asked: list[dict[str, Any]] = []
        self.stream: Stream = lambda body: [1] * body["sampling_params"]["max_new_tokens"]
        self.url = ""

    def records(self, records: list[dict[str, Any]], components: tuple[str, ...] = ("core", "step_cpu_time")) -> None:
        """What its one scheduler has recorded."""
        self.states[0]["dspark_info_record"] = {
            "mode": "compact",
            "gamma": GAMMA,
            "components": list(components),
            "records": records,
        }


def step(number: int, **fields: Any) -> dict[str, Any]:
    """One of upstream's records."""
    return {
        "forward_ct": number,
        "num_running_reqs": 2,
        "num_verify_tokens": 6,
        "budget": 4,
        "step_cpu_ms": 5.0,
    } | fields


@contextmanager
def fake() -> Iterator[Fake]:
    """A server on a port of its own, for as long as the block lasts."""
    told = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null"))

        def _answer(self, body: Any) -> None:
            if self.path == "/server_info":
                if told.broken:
                    told.broken -= 1
                    self._send(b"", 500)
                    return
                self._json(told.info | {"internal_states": told.states})
            elif self.path == "/set_internal_state":
                numbers = body["server_args"]
                if not set(numbers) <= told.tellable:
                    self._json([False])
                    return
                told.told.append(numbers)
                if "dspark_clear_info_records" in numbers:
                    told.cleared()
                self._json([True])
            elif self.path == "/tokenize":
                self._json({"tokens": [[ord(letter) for letter in text] for text in body["prompt"]]})
            elif self.path == "/flush_cache":
                self._send(b"ok")
            elif self.path == "/generate":
                told.asked.append(body)
                self._stream(body)
            else:
                self._send(b"", 404)

        def _stream(self, body: dict[str, Any]) -> None:
            wanted, total = body["sampling_params"]["max_new_tokens"], 0
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for tokens in told.stream(body):
                total += tokens
                reason = {"type": "length"} if total == wanted else None
                self._event(body, total, reason)
            if total < wanted:
                self._event(body, total, {"type": "abort", "message": "out of memory"})
            self.wfile.write(b"data: [DONE]\n\n")
            self.close_connection = True

        def _event(self, body: dict[str, Any], total: int, reason: dict[str, Any] | None) -> None:
            meta = {
                "completion_tokens": total,
                "prompt_tokens": len(body["input_ids"]),
                "finish_reason": reason,
                "spec_verify_ct": 2,
                "spec_cap_lens_histogram": [0, 1, 0, 1],
            }
            self.wfile.write(f"data: {json.dumps({'meta_info': meta})}\n\n".encode())
            self.wfile.flush()

        def _json(self, content: Any) -> None:
            self._send(json.dumps(content).encode())

        def _send(self, content: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
