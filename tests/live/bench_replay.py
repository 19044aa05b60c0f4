"""SGLang's own benchmark client on recorded streams; a script that ``test_recording`` runs.

Reads streams from the file that it is given and prints what ``sglang.benchmark.serving`` makes of them as JSON. Its
clock shows the recorded times and nothing else, so that it sees every line when the recording client saw it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sglang.benchmark import serving

ARGUMENTS = {
    "temperature": 0.0,
    "top_p": 1.0,
    "disable_ignore_eos": False,
    "disable_stream": False,
    "return_logprob": False,
    "return_routed_experts": False,
    "logprob_start_len": -1,
    "top_logprobs_num": 0,
    "token_ids_logprob": None,
    "cache_report": False,
}


class Clock:
    """Stands in for the ``time`` module of the client."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Replay:
    """Stands in for the HTTP session of one request: its answer comes line by line, at the recorded times."""

    status = 200

    def __init__(self, clock: Clock, lines: list[tuple[float, str]]) -> None:
        self._clock, self._lines = clock, lines
        self.content = self._read()

    @asynccontextmanager
    async def post(self, **request: Any) -> AsyncIterator[Replay]:
        yield self

    async def _read(self) -> AsyncIterator[bytes]:
        for at_s, line in self._lines:
            self._clock.now_s = at_s
            yield line.encode()


async def replay(stream: dict[str, Any], clock: Clock) -> serving.RequestFuncOutput:
    @asynccontextmanager
    async def session() -> AsyncIterator[Replay]:
        yield Replay(clock, stream["lines"])

    serving._create_bench_client_session = session
    clock.now_s = stream["sent_s"]
    request = serving.RequestFuncInput(
        prompt=[0] * stream["prompt_tokens"],
        api_url="",
        prompt_len=stream["prompt_tokens"],
        output_len=stream["output_tokens"],
        model="",
        lora_name="",
        image_data=None,
        extra_request_body={},
    )
    return await serving.async_request_sglang_generate(request)


async def main(recorded: dict[str, Any]) -> dict[str, Any]:
    clock = Clock()
    serving.time = clock
    serving.set_global_args(SimpleNamespace(**ARGUMENTS))
    outputs = [await replay(stream, clock) for stream in recorded["streams"]]
    tokenizer = SimpleNamespace(encode=lambda text, **options: [])
    metrics, lengths = serving.calculate_metrics(None, outputs, recorded["window_s"], tokenizer, "sglang")
    return {"metrics": asdict(metrics), "lengths": lengths, "itls": [output.itl for output in outputs]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))))
