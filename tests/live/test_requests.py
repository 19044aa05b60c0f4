"""Streams, stops, aborts and disconnects that end within a draft block."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sglang_dspark.local_server.closed_loop import Prompt, ask, closed_loop
from sglang_dspark.local_server.mixed_prompts import mixed
from sglang_dspark.local_server.policies import artifact
from sglang_dspark.local_server.process import ServerProcess
from tests.live import servers

pytestmark = pytest.mark.parametrize("steered", [servers.COMPACT, servers.COMPACT_SYNC], indirect=True)


@pytest.fixture(autouse=True)
def policy(steered: servers.SteeredServer) -> None:
    if steered.server.state()["dspark_policy"]["family"] != "static":
        steered.use(artifact("static"))


def generate(server: ServerProcess, text: str, **sampling: Any) -> Any:
    parameters = {"temperature": 0.0, "ignore_eos": True} | sampling
    return server.post("/generate", {"text": text, "sampling_params": parameters})


def test_a_stream_is_the_answer_in_pieces(steered: servers.SteeredServer) -> None:
    text = mixed()[4].text
    whole = generate(steered.server, text, max_new_tokens=40)
    body = {"text": text, "sampling_params": {"temperature": 0.0, "max_new_tokens": 40, "ignore_eos": True}}
    request = urllib.request.Request(
        f"{steered.server.url}/generate",
        json.dumps(body | {"stream": True}).encode(),
        {"Content-Type": "application/json"},
    )
    texts = []
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                texts.append(json.loads(line.removeprefix(b"data: "))["text"])
    assert texts[-1] == whole["text"]
    assert len(texts) > 2
    assert all(texts[-1].startswith(part.rstrip("\ufffd")) for part in texts)


def test_a_stop_string_ends_within_a_block(steered: servers.SteeredServer) -> None:
    text = mixed()[4].text
    whole = generate(steered.server, text, max_new_tokens=60)["text"]
    stop = whole[20:24]
    found = generate(steered.server, text, max_new_tokens=60, stop=[stop])
    assert found["text"] == whole[: whole.index(stop)]
    assert found["meta_info"]["finish_reason"]["type"] == "stop"


@pytest.mark.parametrize("tokens", range(1, 10))
def test_max_tokens_ends_within_a_block(steered: servers.SteeredServer, tokens: int) -> None:
    whole = generate(steered.server, mixed()[9].text, max_new_tokens=10)["output_ids"]
    found = generate(steered.server, mixed()[9].text, max_new_tokens=tokens)
    assert found["output_ids"] == whole[:tokens]
    assert found["meta_info"]["completion_tokens"] == tokens


def test_aborts_and_disconnects_leave_the_others_alone(steered: servers.SteeredServer) -> None:
    server = steered.server
    prompts = mixed()[:24]
    before = closed_loop(server, prompts, 8, ignore_eos=True)
    long = {"temperature": 0.0, "max_new_tokens": 400, "ignore_eos": True}
    body = json.dumps({"text": "def", "stream": True, "sampling_params": long}).encode()
    with ThreadPoolExecutor(5) as pool:
        ended = [pool.submit(_abort, server, f"abort-{i}", long) for i in range(4)]
        for _ in range(4):
            _hang_up(server, body)
        during = closed_loop(server, prompts, 8, ignore_eos=True)
        reasons = [future.result()["meta_info"]["finish_reason"]["type"] for future in ended]
    assert reasons == ["abort"] * 4
    assert not during.failed
    assert [a.output_ids for a in during.answers] == [a.output_ids for a in before.answers]


def _abort(server: ServerProcess, name: str, sampling: dict[str, Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        body = {"text": "class", "rid": name, "sampling_params": sampling}
        answer = pool.submit(server.post, "/generate", body)
        while not answer.done():
            # Until it has reached the scheduler there is nothing to abort.
            server.post("/abort_request", {"rid": name})
            if answer.done() or _wait(answer):
                break
        return answer.result()


def _wait(answer: Any) -> bool:
    try:
        answer.result(timeout=0.3)
    except TimeoutError:
        return False
    return True


def _hang_up(server: ServerProcess, body: bytes) -> None:
    """Send a streaming request and close the connection after its first piece."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=600) as connection:
        head = f"POST /generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while b"data:" not in connection.recv(65536):
            pass


def test_a_regex_holds_while_others_run(steered: servers.SteeredServer) -> None:
    pattern = r"[a-c]{3}-[0-9]{4}(, [a-c]{3}-[0-9]{4}){2}"
    with ThreadPoolExecutor(4) as pool:
        others = pool.submit(closed_loop, steered.server, mixed()[:12], 3)
        found = [
            generate(steered.server, "codes: ", max_new_tokens=64, regex=pattern, ignore_eos=False, temperature=t)
            for t in (0.0, 1.0, 1.0)
        ]
        assert not others.result().failed
    for answer in found:
        assert re.fullmatch(pattern, answer["text"]), answer["text"]


def test_a_batch_drains_to_one(steered: servers.SteeredServer) -> None:
    texts = [prompt.text for prompt in mixed()[:16]]
    alone = ask(steered.server, Prompt(texts[-1], 120, "code"), ignore_eos=True)
    drained = closed_loop(
        steered.server,
        [Prompt(text, 4 if i < 15 else 120, "code") for i, text in enumerate(texts)],
        16,
        ignore_eos=True,
    )
    assert not drained.failed
    assert drained.answers[-1].output_ids == alone.output_ids
    assert steered.server.get("/health") is not None
