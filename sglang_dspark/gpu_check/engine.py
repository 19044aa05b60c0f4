"""Stage *engine*: SGLang serves the demo pair on a GPU with graphs, and its answers equal those without speculation.

``python -m sglang_dspark.gpu_check.engine --out DIR [--budget-s 480] [--rehearse]`` writes ``DIR/engine.json`` after
every cell, beside it the servers' logs and recordings. Servers, in this order:

1. *plain*: no speculation. Its answers to 200 prompts at temperature 0 and its first tokens at temperature 1 are the
   reference for the others.
2. *ours*: compact verification in captured graphs, overlap, a policy, the recorder, our kernels. Every policy family
   against *plain*, the distribution at temperature 1, rests, reloads under load, the kill switch, step times.
3. *upstream's kernels*: the same with SGLang's kernels, to compare step times.
4. *no overlap* and 5. *no graphs*: the other code paths of the engine, if time is left.

Where *ours* does not start, it is tried without graphs, so that the log shows which part fails.

Time plan, estimated and not measured on a GPU: a start takes 40 to 60 s (20 s of imports as on a CPU, a model
of 4 million parameters, seven captured sizes of target and draft), the first one up to a minute more for kernels that
are compiled once; a pass over the prompts is 3,200 tokens at 16 at once, a few seconds. Three starts and the cells of
the first two servers are planned at 330 s of the 480.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from sglang_dspark.demo.text import held_out
from sglang_dspark.gpu_check import environment
from sglang_dspark.gpu_check.stage import Flags, Stage, steps
from sglang_dspark.local_server import first_tokens, reference
from sglang_dspark.local_server.closed_loop import Answers, Prompt, closed_loop
from sglang_dspark.local_server.mixed_prompts import mixed
from sglang_dspark.local_server.policies import FAMILIES, artifact
from sglang_dspark.local_server.process import DSPARK, NO_FALLBACK, ServerProcess
from sglang_dspark.local_server.steering import Busy, SteeredServer, put_in_force
from sglang_dspark.policy import Fixed
from sglang_dspark.policy.artifact import Artifact, save
from sglang_dspark.serving.launch import POLICY
from sglang_dspark.serving.steps import Mode

BUDGET_S: Final = 480.0
CLIENTS: Final = 16
KERNELS: Final = "--speculative-dspark-kernels"
RECORD: Final = "--speculative-dspark-record"
COMPACT: Final = {"SGLANG_RAGGED_VERIFY_MODE": "compact"}
# Small chunks, so that prompts are prefilled in several.
FLAGS: Final = {"--chunked-prefill-size": "64", "--max-running-requests": "32", "--enable-metrics": ""}
CAPTURED: Final = {"--cuda-graph-bs-decode": ("1", "2", "4", "8", "16", "24", "32")}
NO_GRAPHS: Final = {"--disable-cuda-graph": ""}
OTHERS: Final[dict[str, Flags]] = {
    "upstreams kernels": {KERNELS: "upstream"},
    "no overlap": {KERNELS: "ours", "--disable-overlap-schedule": ""},
    "no graphs": {KERNELS: "ours", **NO_GRAPHS},
}
ALPHA: Final = 1e-4
# Of the demo pair, target and draft.
HEAD_DIM, KV_HEADS = 64, 2


class Size(NamedTuple):
    """The sizes of the checks.

    Attributes:
        prompts: Number of prompts, of 200.
        families: Policies that are compared with the plain server.
        samples: First tokens at temperature 1.
        loads: Numbers of concurrent requests at which step times are reported.
        reloads: Policy files under load.
    """

    prompts: int
    families: tuple[str, ...]
    samples: int
    loads: tuple[int, ...]
    reloads: int


FULL: Final = Size(200, tuple(FAMILIES), first_tokens.SAMPLES, (1, 4, 16, 32), 40)
REHEARSED: Final = Size(16, ("static", "none"), 640, (2,), 4)


_turns = itertools.count(1)


def unlike_before(made: Artifact) -> Artifact:
    """Return the artifact with a unique text: the server delays files that it has seen before."""
    return made.model_copy(update={"advice": f"Turn {next(_turns)}."})


def _follow(steered: SteeredServer, made: Artifact) -> None:
    steered.use(unlike_before(made))


def main() -> None:
    """Run the stage from the command line."""
    run(Stage.of_command("engine", __doc__, BUDGET_S))


def run(stage: Stage) -> None:
    """Run all servers and cells for which there is time."""
    size = REHEARSED if stage.rehearses else FULL
    base: Flags = FLAGS if stage.rehearses else {**FLAGS, **environment.FLAGS, **CAPTURED}
    stage.warm(HEAD_DIM, KV_HEADS)
    with stage.server("plain", base) as plain:
        expected = _plain(stage, plain, size) if plain is not None else None
    with _ours(stage, "ours", base, {KERNELS: "ours"}) as steered:
        if steered is not None:
            _everything(stage, steered, expected, size)
    _note_recorded_steps(stage, "ours", size)
    if not stage.rehearses and steered is None:
        with _ours(stage, "ours without graphs", base, {KERNELS: "ours", **NO_GRAPHS}) as steered:
            if steered is not None:
                _everything(stage, steered, expected, size)
        _note_recorded_steps(stage, "ours without graphs", size)
    for name, flags in OTHERS.items():
        with _ours(stage, name, base, flags) as steered:
            if steered is not None:
                _lossless(stage, name, steered, "static", expected, size)
                _loads(stage, name, steered, size)
        _note_recorded_steps(stage, name, size)


@contextmanager
def _ours(stage: Stage, name: str, base: Flags, flags: Flags) -> Iterator[SteeredServer | None]:
    """Run a server that follows a policy, in compact mode, with the recorder, while the block lasts."""
    path, record = stage.out / "policy.json", stage.out / name.replace(" ", "-")
    save(artifact("static"), path)
    merged = {**base, **DSPARK, **NO_FALLBACK, POLICY: str(path), RECORD: str(record), **flags}
    if not stage.rehearses:
        merged |= environment.DRAFT_BACKEND
    with stage.server(name, merged, COMPACT) as server:
        yield None if server is None else SteeredServer(server, path)


def _plain(stage: Stage, server: ServerProcess, size: Size) -> dict[str, Any]:
    """Collect the reference answers of the server without speculation."""
    answers = stage.run("plain: prompts", lambda: [list(a.output_ids) for a in _ask(server, size).answers], server)
    counts = stage.run("plain: first tokens", lambda: _counted(server, size), server)
    for clients in size.loads:
        stage.run(f"plain: {clients} at once", partial(_rate, server, clients), server)
    return {"answers": answers, "counts": counts}


def _everything(stage: Stage, steered: SteeredServer, expected: Mapping[str, Any] | None, size: Size) -> None:
    server = steered.server
    for family in size.families:
        _lossless(stage, "ours", steered, family, expected, size)

    def distribution() -> dict[str, Any]:
        _follow(steered, artifact("static"))
        if expected is None or expected["counts"] is None:
            raise RuntimeError("the plain server gave no first tokens to compare with")
        fit = first_tokens.compare(_unpacked(expected["counts"]), _unpacked(_counted(server, size)))
        return fit._asdict() | {"passes": fit.p_value > ALPHA, "alpha": ALPHA}

    stage.run("ours: temperature 1 against plain", distribution, server)
    _loads(stage, "ours", steered, size)
    stage.run("ours: kill switch", lambda: _kill_switch(steered), server)
    stage.run("ours: rest and resume", lambda: _rest(steered), server)
    stage.run("ours: reloads under load", lambda: _reloads(steered, size), server)


def _lossless(
    stage: Stage, name: str, steered: SteeredServer, family: str, expected: Mapping[str, Any] | None, size: Size
) -> None:
    def check() -> dict[str, Any]:
        if expected is None or expected["answers"] is None:
            raise RuntimeError("the plain server gave no answers to compare with")
        _follow(steered, artifact(family))
        return judged(expected["answers"], _ask(steered.server, size))

    stage.run(f"{name}: greedy, {family}", check, steered.server)


def judged(expected: list[list[int]], loaded: Answers) -> dict[str, Any]:
    """Compare answers with those of the plain server; the first different token of an answer is a tie or a fault."""
    ties: list[dict[str, Any]] = []
    faults: list[dict[str, Any]] = []
    for expected_ids, answer in zip(expected, loaded.answers, strict=True):
        got = list(answer.output_ids)
        if got == expected_ids:
            continue
        pairs = zip(got, expected_ids, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if at is None:
            faults.append({"prompt": answer.prompt.text[-40:], "lengths": [len(got), len(expected_ids)]})
            continue
        ids = reference.tokenizer()(answer.prompt.text)["input_ids"] + expected_ids[:at]
        apart, moved = reference.tie(ids, got[at], expected_ids[at])
        row = {"prompt": answer.prompt.text[-40:], "at": at, "logits_apart": apart, "bf16_moves": moved}
        (ties if apart <= moved else faults).append(row)
    return {
        "prompts": len(expected),
        "equal": len(expected) - len(ties) - len(faults),
        "ties": ties,
        "faults": faults,
        "passes": not faults,
        "accepted_length": loaded.accepted_length,
        "verify_length": loaded.verify_length,
        "seconds": loaded.elapsed_s,
    }


def _ask(server: ServerProcess, size: Size) -> Answers:
    return _whole(closed_loop(server, mixed()[: size.prompts], CLIENTS, ignore_eos=True))


def _whole(loaded: Answers) -> Answers:
    """Raise RuntimeError where a request failed."""
    if loaded.failed:
        first = next(answer.error for answer in loaded.answers if answer.error)
        raise RuntimeError(f"{loaded.failed} of {len(loaded.answers)} requests failed, the first with {first}")
    return loaded


def _counted(server: ServerProcess, size: Size) -> list[tuple[list[int], int]]:
    counts = first_tokens.draw(server, held_out("code", 1, 24, seed=3)[0], size.samples)
    return [(list(cell), count) for cell, count in counts.items()]


def _unpacked(rows: list[tuple[list[int], int]]) -> Any:
    return Counter({tuple(cell): count for cell, count in rows})


def _rate(server: ServerProcess, clients: int) -> dict[str, float]:
    """Measure the tokens per second of ``clients`` requests that start together."""
    prompts = [Prompt(prompt.text, 96, prompt.slo_class) for prompt in mixed()[4 : 4 + clients]]
    loaded = _whole(closed_loop(server, prompts, clients, ignore_eos=True))
    return {"tokens_per_s": loaded.tokens_per_s, "accepted_length": loaded.accepted_length}


def _loads(stage: Stage, name: str, steered: SteeredServer, size: Size) -> None:
    """Verify whole blocks at every load; the recorder keeps the step times."""
    stage.run(f"{name}: whole blocks in force", lambda: _follow(steered, _fixed(7)), steered.server)
    for clients in size.loads:
        stage.run(f"{name}: {clients} at once", partial(_rate, steered.server, clients), steered.server)


def _fixed(length: int) -> Artifact:
    return artifact("fixed").model_copy(update={"policy": Fixed(length=length)})


def _kill_switch(steered: SteeredServer) -> dict[str, Any]:
    """Measure verify lengths with the policy on (3), off and in shadow (7), and on again (3)."""
    server = steered.server
    lengths: dict[str, float] = {}
    _follow(steered, artifact("fixed"))
    for mode in (Mode.ON, Mode.OFF, Mode.SHADOW, Mode.ON):
        if not server.set_state(dspark_policy_mode=int(mode)):
            raise RuntimeError(f"the server did not accept mode {mode.name}")
        closed_loop(server, mixed()[:2], 1)
        lengths[f"{len(lengths)} {mode.name.lower()}"] = _whole(closed_loop(server, mixed()[:4], 2)).verify_length
    return {"verify_lengths": lengths, "passes": list(lengths.values()) == [3, 7, 7, 3]}


def _rest(steered: SteeredServer) -> dict[str, Any]:
    """Follow a policy that never drafts, then one that does."""
    _follow(steered, artifact("none"))
    rested = _whole(closed_loop(steered.server, mixed()[:8], 4)).accepted_length
    _follow(steered, artifact("fixed"))
    resumed = _whole(closed_loop(steered.server, mixed()[:8], 4))
    return {
        "accepted_length": rested,
        "verify_length_after": resumed.verify_length,
        "passes": rested == 1 and resumed.verify_length == 3,
    }


def _reloads(steered: SteeredServer, size: Size) -> dict[str, Any]:
    """Replace the policy repeatedly while requests run."""
    before = steered.server.state()["dspark_policy"]["version"]
    loads: list[Answers] = []

    def load() -> None:
        if not steered.server.ended:
            loads.append(closed_loop(steered.server, mixed()[:32], 8))

    with Busy(load):
        for i in range(size.reloads):
            made = artifact(("threshold", "fixed", "argmax", "none")[i % 4], advice=f"Reload {i}.")
            put_in_force(steered.server, made, steered.path)
    taken = steered.server.state()["dspark_policy"]["version"] - before
    failed, sent = sum(load.failed for load in loads), sum(len(load.answers) for load in loads)
    return {"reloads": taken, "requests": sent, "failed": failed, "passes": taken == size.reloads and not failed}


def _note_recorded_steps(stage: Stage, name: str, size: Size) -> None:
    """Note the medians of the recorded steps, which the server has written when it stops."""
    folder = stage.out / name.replace(" ", "-")
    if folder.is_dir():
        stage.note_of(f"steps of {name}", partial(steps, folder, size.loads))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
