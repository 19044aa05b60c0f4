"""Stage *cost*: step times of Qwen3-8B with a DSpark draft on this GPU, in files for ``dspark calibrate``.

``python -m sglang_dspark.gpu_check.cost --out DIR [--budget-s 420] [--rehearse]`` writes ``DIR/cost.json`` after every
cell, and beside it ``gamma7.parquet`` and ``gamma3.parquet`` (``dspark record``), ``plain-*.parquet`` (``dspark load``)
and the logs. Weights are random, in the shapes of Qwen3-8B and of DeepSpec's draft for it: times depend on the
shapes only, and almost no draft is accepted. Attention uses SGLang's Triton kernels, which read a long context more
slowly than FlashAttention 3.

1. *gamma 7*: one server, compact, in graphs. For every context and number of clients it verifies whole blocks, three
   drafts, one draft, and rests, by replacing the policy under load.
2. *plain*: no speculation. Closed loops for step times; then limits on running requests, and prefill intervals 0, 4
   and 8, with more clients than may run.
3. *gamma 3*: as 1 with fewer loads, if time is left.

``cost.json`` contains the command that makes the scenario ``h200-qwen3-8b-measured`` from these files, on any machine.

Time plan, estimated and not measured on a GPU: 110 s for the first start (20 s of imports, 40 s of graphs for twelve
sizes of a target with 36 layers and a draft, the rest for kernels that are compiled once), 60 s for later ones. The 16
loads of *gamma 7* prefill 520,000 tokens (30 s) and hold four policies for 1.2 s each with 0.5 s to replace them
(110 s). *plain* takes 60 + 90 s. That is 400 s; *gamma 3* needs 100 more.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import yaml

from sglang_dspark.demo import TARGET
from sglang_dspark.drafter.block import DSparkShape
from sglang_dspark.drafter.shape import derive
from sglang_dspark.drafter.training import recipe
from sglang_dspark.gpu_check import environment
from sglang_dspark.gpu_check.engine import COMPACT, KERNELS, unlike_before
from sglang_dspark.gpu_check.plugin import INTERVAL
from sglang_dspark.gpu_check.stage import Flags, Stage, steps
from sglang_dspark.local_server.process import DSPARK, NO_FALLBACK, ServerProcess
from sglang_dspark.local_server.steering import put_in_force
from sglang_dspark.policy import AnyPolicy, Fixed, NoDraft, SpsAdditiveTable
from sglang_dspark.policy.artifact import Artifact, save, untuned
from sglang_dspark.serving.launch import POLICY

BUDGET_S: Final = 420.0
SCENARIO: Final = "h200-qwen3-8b"
QWEN3_8B: Final[dict[str, Any]] = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "rope_theta": 1e6,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
}
# The rehearsal's shape, whose draft is a small version of the recipe's.
TINY: Final = QWEN3_8B | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
}
TINY_DRAFT: Final = DSparkShape(
    family="dspark", layers=1, mask_token_id=1, markov_rank=8, target_layer_ids=(0, 2), intermediate_size=64
)
# The cost belief of untuned policies, which fixed lengths do not use.
GUESS: Final = SpsAdditiveTable(
    bias_seconds=0.01, bs_probes=(1,), alpha_seconds=(0.0,), m_probes=(1,), theta_seconds=(0.0,)
)


class Size(NamedTuple):
    """The sizes of the measurements.

    Attributes:
        running: The servers' limit on running requests.
        loads: Numbers of clients by tokens of context, the longest first: shorter prompts are prefixes of longer ones
            and come from the prefix cache.
        other_loads: The same with gamma 3.
        plain: Context and clients of the closed loops on the server without speculation.
        output: Tokens of an answer.
        dwell_s: Seconds for which a policy is held.
        tokens_per_s: A lower bound of the prefill rate.
        chat: Prompt and output tokens of the last part, means of lognormals.
        limits: Limits on running requests; the last is ``running``.
    """

    running: int
    loads: Mapping[int, tuple[int, ...]]
    other_loads: Mapping[int, tuple[int, ...]]
    plain: tuple[tuple[int, int], ...]
    output: int
    dwell_s: float
    tokens_per_s: float
    chat: tuple[int, int]
    limits: tuple[int, ...]


FULL: Final = Size(
    running=256,
    loads={8192: (1, 8, 32), 2048: (1, 8, 32, 128), 512: (1, 2, 4, 8, 16, 32, 64, 128, 256)},
    other_loads={2048: (8, 64), 512: (1, 8, 32, 128, 256)},
    plain=((512, 1), (512, 8), (512, 64), (512, 256), (2048, 32), (8192, 16)),
    output=400,
    dwell_s=1.2,
    tokens_per_s=15_000.0,
    chat=(400, 100),
    limits=(64, 128, 256),
)
REHEARSED: Final = Size(
    running=4,
    loads={48: (1,), 24: (1, 3)},
    other_loads={24: (2,)},
    plain=((24, 1), (24, 3)),
    output=40,
    dwell_s=3.0,
    tokens_per_s=100.0,
    chat=(24, 8),
    limits=(2, 4),
)
POLICIES: Final[dict[str, AnyPolicy]] = {
    "whole": Fixed(length=16),
    "three": Fixed(length=3),
    "one": Fixed(length=1),
    "rest": NoDraft(),
}
INTERVALS: Final = (0, 4, 8)
GPU: Final = {
    "--cuda-graph-bs-decode": ("1", "2", "4", "8", "16", "32", "48", "64", "96", "128", "192", "256"),
    "--context-length": "10240",
    # 76 GB, in addition to 16 of weights and 5 of logits and graphs.
    "--max-total-tokens": "450000",
    "--chunked-prefill-size": "8192",
    # Answers are streamed in pieces: one process cannot read 256 of them token by token at 100 steps a second.
    "--stream-interval": "16",
}


def main() -> None:
    """Run the stage from the command line."""
    run(Stage.of_command("cost", __doc__, BUDGET_S))


def run(stage: Stage) -> None:
    """Run all servers and cells for which there is time."""
    size = REHEARSED if stage.rehearses else FULL
    stage.warm(QWEN3_8B["head_dim"], QWEN3_8B["num_key_value_heads"])
    target, draft = write_models(stage.out, small=stage.rehearses)
    base = {
        "--model-path": str(target),
        "--load-format": "dummy",
        "--max-running-requests": str(size.running),
        **({} if stage.rehearses else {**environment.FLAGS, **GPU}),
    }
    stage.note(shape=TINY if stage.rehearses else QWEN3_8B)
    _speculating(stage, base, draft, 7, size.loads, size)
    with stage.server("plain", base) as server:
        if server is not None:
            _plain(stage, server, size)
    stage.note(next=_next(stage.out))
    _speculating(stage, base, draft, 3, size.other_loads, size)


def write_models(folder: Path, small: bool) -> tuple[Path, Path]:
    """Write folders with the configurations of target and draft, and the demo's tokenizer; the server makes weights."""
    from transformers import Qwen3Config

    target, draft = folder / "target", folder / "draft"
    target.mkdir(parents=True, exist_ok=True)
    config = Qwen3Config(**(TINY if small else QWEN3_8B), tie_word_embeddings=False, dtype="bfloat16")
    config.architectures = ["Qwen3ForCausalLM"]
    config.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TARGET / name, target / name)
    shape = TINY_DRAFT if small else recipe.load("qwen3-8b-dspark").draft
    derive(shape, config, anchors=512).save(draft)
    return target, draft


def artifact(policy: AnyPolicy, gamma: int) -> Artifact:
    """Make an artifact of a policy for the shape, with fixed lengths of at most a block."""
    if isinstance(policy, Fixed):
        policy = Fixed(length=min(policy.length, gamma))
    return untuned(policy, GUESS, gamma)


def _speculating(
    stage: Stage, base: Flags, draft: Path, gamma: int, loads: Mapping[int, tuple[int, ...]], size: Size
) -> None:
    name, path, recorded = f"gamma {gamma}", stage.out / "policy.json", stage.out / f"gamma{gamma}.parquet"
    save(artifact(POLICIES["whole"], gamma), path)
    flags = {
        **base,
        **DSPARK,
        **NO_FALLBACK,
        **({} if stage.rehearses else environment.DRAFT_BACKEND),
        "--speculative-draft-model-path": str(draft),
        "--speculative-draft-load-format": "dummy",
        "--speculative-dspark-block-size": str(gamma),
        POLICY: str(path),
        KERNELS: "ours",
    }
    with stage.server(name, flags, COMPACT) as server:
        if server is None:
            return
        with _recorded(server, recorded):
            for context, levels in loads.items():
                with _Clients(server, context, size.output) as clients:
                    for level in levels:
                        call = partial(_level, server, path, clients, level, gamma, size)
                        stage.run(f"{name}: {level} of {context}", call, server)
    if recorded.exists():
        stage.note_of(f"steps of {name}", partial(steps, recorded))


def _level(server: ServerProcess, path: Path, clients: _Clients, level: int, gamma: int, size: Size) -> dict[str, Any]:
    """Hold every policy for a while with ``level`` clients running."""
    added = clients.grow(level)
    time.sleep(0.5 + added * clients.context / size.tokens_per_s)
    held = {}
    for name, policy in POLICIES.items():
        if name == "three" and gamma == 3:  # The whole block.
            continue
        since_s = time.monotonic()
        put_in_force(server, unlike_before(artifact(policy, gamma)), path)
        replaced_s = time.monotonic() - since_s
        time.sleep(size.dwell_s)
        held[name] = {"replaced_s": round(replaced_s, 2)}
    if clients.errors:
        raise RuntimeError(f"{len(clients.errors)} requests failed, the first with {clients.errors[0]}")
    return held


class _Clients:
    """Clients that each request the answer to their own prompt repeatedly while the block lasts."""

    def __init__(self, server: ServerProcess, context: int, output: int) -> None:
        self.context, self.errors = context, list[str]()
        self._server, self._output = server, output
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> _Clients:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if not self._server.ended:
            with suppress(OSError):  # The server may be stopping.
                self._server.post("/abort_request", {"rid": "", "abort_all": True})
        for thread in self._threads:
            thread.join()

    def grow(self, clients: int) -> int:
        """Start clients until ``clients`` run; return the number started."""
        before = len(self._threads)
        for number in range(before, clients):
            thread = threading.Thread(target=self._ask, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return clients - before

    def _ask(self, number: int) -> None:
        # Ids of the demo's tokenizer, without its special tokens; a shorter prompt is a prefix of a longer one.
        prompt = np.random.default_rng(number).integers(8, 1000, self.context).tolist()
        sampling = {"temperature": 0.0, "max_new_tokens": self._output, "ignore_eos": True}
        while not self._stop.is_set() and not self._server.ended:
            try:
                self._server.post("/generate", {"input_ids": prompt, "sampling_params": sampling})
            except Exception as error:  # The cell reports every kind of failure.
                if not self._stop.is_set():
                    self.errors.append(f"{type(error).__name__}: {error}")
                    return


@contextmanager
def _recorded(server: ServerProcess, out: Path) -> Iterator[None]:
    """Run ``dspark record`` while the block lasts."""
    command = [sys.executable, "-m", "dspark_tuning.cli", "record", "--url", server.url, "--out", str(out)]
    with out.with_suffix(".record.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _plain(stage: Stage, server: ServerProcess, size: Size) -> None:
    for context, clients in size.plain:
        call = partial(_closed_loop, stage, server, f"plain-{context}-{clients}", context, clients, size)
        stage.run(f"plain: {clients} of {context}", call, server)
    most = size.limits[-1]
    for limit, interval in [*((limit, 0) for limit in size.limits), *((most, n) for n in INTERVALS if n)]:
        call = partial(_saturated, stage, server, limit, interval, size)
        stage.run(f"plain: at most {limit} running, prefill interval {interval}", call, server)


def _closed_loop(
    stage: Stage, server: ServerProcess, name: str, context: int, clients: int, size: Size
) -> dict[str, Any]:
    lengths = {"kind": "fixed", "tokens": context}, {"kind": "fixed", "tokens": min(size.output, 128)}
    loaded = _load(stage, server, name, lengths, clients, clients, 0)
    return {"tpot_s": loaded["result"]["tpot"]}


def _saturated(stage: Stage, server: ServerProcess, limit: int, interval: int, size: Size) -> dict[str, Any]:
    """Run more clients than the limit, so that prompts always wait."""
    if not server.set_state(**{INTERVAL: interval, "pp_max_micro_batch_size": limit}):
        raise RuntimeError("the server did not accept the limit and the interval")
    prompt, output = (
        {"kind": "lognormal", "mean": mean, "sigma": 0.6, "min": 4, "max": 8 * mean} for mean in size.chat
    )
    clients = limit + max(limit // 4, 1)
    name = f"saturated-{limit}-{interval}"
    return _load(stage, server, name, (prompt, output), clients, clients, clients)


def _load(
    stage: Stage,
    server: ServerProcess,
    name: str,
    lengths: tuple[Mapping[str, Any], Mapping[str, Any]],
    clients: int,
    requests: int,
    warmup: int,
) -> dict[str, Any]:
    """Run ``dspark load`` with a closed loop and return its JSON; traffic and requests are kept as files."""
    prompt, output = lengths
    traffic = {
        "base": SCENARIO,
        "name": name,
        "workload": {
            "arrivals": {"kind": "closed", "clients": clients},
            "classes": [
                {
                    "name": "chat",
                    "domain": "mt-bench",
                    "prompt": prompt,
                    "output": output,
                    "max_new_tokens": output.get("max", output.get("tokens")),
                    "slo": {"ttft_s": 1.0, "tpot_s": 0.03},
                }
            ],
        },
        "loads": [clients],
        "run": {"requests": requests + warmup, "warmup_requests": warmup},
    }
    source = stage.out / f"{name}.yaml"
    source.write_text(yaml.safe_dump(traffic, sort_keys=False))
    out = ("--out", str(stage.out / f"{name}.parquet"))
    command = [sys.executable, "-m", "dspark_tuning.cli", "load", str(source), "--url", server.url, *out, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout))


def _next(folder: Path) -> Sequence[str]:
    """Return the command that makes a scenario of the results."""
    plain = [word for file in sorted(folder.glob("plain-*.parquet")) for word in ("--plain", str(file))]
    outputs = ("--out", "profile.json", "--scenario", f"{SCENARIO}-measured.yaml", "--base", SCENARIO)
    return ["dspark", "calibrate", f"{folder}/gamma7.parquet", *plain, "--hardware", "H200", *outputs]


if __name__ == "__main__":
    main()
