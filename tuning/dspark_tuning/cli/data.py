"""``dspark data``: prompts, the target's answers to them, and its hidden states on both."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dspark_tuning.cli.common import Device, Json, Threads, print_json, start_torch

app = typer.Typer(help="Prepare data to train a drafter on.", no_args_is_help=True)

Precision = Annotated[
    Literal["bf16", "float32"] | None,
    typer.Option(
        "--precision",
        help="Precision of the target's weights. \\[default: float32 on a CPU, bf16 on a GPU]",
        show_default=False,
    ),
]
TargetName = Annotated[
    str, typer.Option("--target", help="The target: a folder, a name on the hub, or demo.", show_default=False)
]


@app.command()
def prompts(
    files: Annotated[list[Path], typer.Argument(help="JSON lines of prompts or conversations.")],
    out: Annotated[Path, typer.Option("--out", help="Prompts to train on.")] = Path("prompts.jsonl"),
    held_out: Annotated[Path, typer.Option("--held-out", help="Prompts held out.")] = Path("held_out.jsonl"),
    share: Annotated[float, typer.Option("--share", min=0.0, max=1.0, help="Share of prompts held out.")] = 0.05,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Prompts in all. \\[default: every one]")] = None,
    as_json: Json = False,
) -> None:
    """Take the users' turns of conversations, once each, and hold some out."""
    from sglang_dspark.drafter.data.prompts import split

    counts = split(files, out, held_out, share, limit)
    if as_json:
        print_json(counts)
    else:
        print(f"{out}: {counts.train} prompts; {held_out}: {counts.held_out}; {counts.repeated} repeated lines.")


@app.command()
def regenerate(
    source: Annotated[Path, typer.Argument(metavar="PROMPTS", help="JSON lines of prompts.")],
    out: Annotated[Path, typer.Argument(help="JSON lines of answers; resumes an existing file.")],
    url: Annotated[str | None, typer.Option("--url", help="A server with the OpenAI API.")] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Run the target in this process instead: folder, hub name or demo.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="The server's name for its model.")] = "default",
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="Sampling temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.0, max=1.0)] = 1.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of an answer.")] = 1024,
    together: Annotated[int, typer.Option("--together", min=1, help="Prompts processed at a time.")] = 64,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="For chat templates with a thinking mode.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    precision: Precision = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Answer prompts with the target; run again after an interruption to resume."""
    from sglang_dspark.drafter.data.regenerate import Answerer, Sampling
    from sglang_dspark.drafter.data.regenerate import regenerate as run
    from sglang_dspark.errors import InputError

    template: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
    answerer: Answerer
    if url is not None and target is None:
        from sglang_dspark.drafter.data.server import ServerAnswers

        answerer = ServerAnswers(url, model, template)
    elif target is not None and url is None:
        start_torch(threads)
        from sglang_dspark.drafter.data.in_process import TargetAnswers

        answerer = TargetAnswers(target, _target(target, precision, device), template)
    else:
        raise InputError("--url, --target: give one of them as the source of answers")
    sampling = Sampling(temperature, top_p, max_tokens, seed)
    counts = run(source, out, answerer, sampling, together, _progress)
    if as_json:
        print_json(counts)
    else:
        print(f"{out}: {counts.written} prompts answered, {counts.found} already were.")


@app.command()
def cache(
    files: Annotated[list[Path], typer.Argument(help="JSON lines of answered conversations.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the shards.", show_default=False)],
    target: TargetName,
    layers: Annotated[str, typer.Option("--layers", help="The target's layers, as 1,9,17,25,33.", show_default=False)],
    quota: Annotated[float, typer.Option("--quota", min=0.0, help="GB that the shards may take.")] = 50.0,
    max_length: Annotated[int, typer.Option("--max-length", min=8, help="Tokens of a text.")] = 4096,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only print the size.")] = False,
    precision: Precision = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Store the target's hidden states of texts on disk. Optional: it only saves forward passes during training."""
    start_torch(threads)
    from sglang_dspark.drafter.data import cache as features
    from sglang_dspark.drafter.data.passages import passages
    from sglang_dspark.drafter.target import load_tokenizer
    from sglang_dspark.errors import InputError

    try:
        chosen = tuple(int(layer) for layer in layers.split(","))
    except ValueError:
        raise InputError(f"--layers: {layers!r} is not valid; write numbers as 1,9,17") from None
    texts = passages(files, load_tokenizer(target), max_length)
    seeing = _target(target, precision, device)
    size = features.size(texts, seeing, chosen)
    if dry:
        print_json({"bytes": size}) if as_json else print(f"{size / 1e9:.3f} GB for {len(texts)} texts.")
        return
    features.write(out, texts, seeing, target, chosen, int(quota * 1e9), _progress)
    print_json({"bytes": size, "texts": len(texts)}) if as_json else print(f"{out}: {size / 1e9:.3f} GB.")


def _target(name: str, precision: str | None, device: str) -> Any:
    import torch

    from sglang_dspark.drafter.target import Target

    chosen = precision or ("float32" if device == "cpu" else "bf16")
    return Target.load(name, torch.float32 if chosen == "float32" else torch.bfloat16, device)


def _progress(done: int, of: int) -> None:
    print(f"{done} of {of}", file=sys.stderr, flush=True)
