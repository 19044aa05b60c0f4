"""Evaluation data sets by name, from local files in DeepSpec's format or from the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sglang_dspark.drafter.data.conversations import read
from sglang_dspark.errors import InputError

Row = Mapping[str, Any]


class HubData(NamedTuple):
    """A data set on the hub, and the conversion of its rows to user turns."""

    repository: str
    files: str
    """Glob pattern of its files, which are Parquet or JSON lines."""

    turns: Callable[[Row], list[str]]


def _reasoned(field: str) -> Callable[[Row], list[str]]:
    # The instruction that the paper adds to mathematical prompts.
    return lambda row: [f"{row[field]}\nPlease reason step by step, and put your final answer within \\boxed{{}}."]


def _plain(field: str) -> Callable[[Row], list[str]]:
    return lambda row: [row[field]] if isinstance(row[field], str) else list(row[field])


def _alpaca(row: Row) -> list[str]:
    return [f"{row['instruction']}\n\nInput:\n{row['input']}" if row["input"] else row["instruction"]]


HUB: dict[str, HubData] = {
    "gsm8k": HubData("openai/gsm8k", "main/test-*.parquet", _reasoned("question")),
    "math500": HubData("HuggingFaceH4/MATH-500", "test.jsonl", _reasoned("problem")),
    "aime25": HubData("MathArena/aime_2025", "data/train-*.parquet", _reasoned("problem")),
    "humaneval": HubData(
        "openai/openai_humaneval",
        "openai_humaneval/test-*.parquet",
        lambda row: [f"Complete this function so that it passes its tests:\n```python\n{row['prompt']}\n```"],
    ),
    "mbpp": HubData("google-research-datasets/mbpp", "sanitized/test-*.parquet", _plain("prompt")),
    "mt-bench": HubData("HuggingFaceH4/mt_bench_prompts", "raw/question.jsonl", _plain("prompt")),
    "alpaca": HubData("tatsu-lab/alpaca", "data/train-*.parquet", _alpaca),
}


def prompts(name: str, folder: Path) -> tuple[str, list[list[str]]]:
    """Return a data set's name and its prompts, each a list of user turns.

    Args:
        name: A file of JSON lines, or a data set, which is read from ``folder/NAME.jsonl`` if that exists and fetched
            from the hub otherwise.
        folder: Local copies of data sets.

    Raises:
        InputError: The name is unknown, the hub is unreachable, or a line is not a prompt.
    """
    path = Path(name)
    if path.suffix in (".jsonl", ".json"):
        return path.stem, [conversation.turns for conversation in read(path)]
    local = folder / f"{name}.jsonl"
    if local.exists():
        return name, [conversation.turns for conversation in read(local)]
    if name not in HUB:
        raise InputError(f"data: {name!r} is no file, not in {folder} and not known; known are {', '.join(HUB)}")
    return name, _fetch(name, HUB[name], folder)


def rows(file: Path) -> list[Row]:
    """Read the rows of a Parquet or JSON-lines file."""
    import pandas as pd

    table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_json(file, lines=True)
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]


def _fetch(name: str, source: HubData, local: Path) -> list[list[str]]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(source.repository, repo_type="dataset", allow_patterns=[source.files]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"data: {name}: {source.repository} cannot be fetched ({reason}); put {name}.jsonl into {local}"
        ) from error
    files = sorted(folder.glob(source.files))
    if not files:
        raise InputError(f"data: {name}: {source.repository} has no {source.files}; put {name}.jsonl into {local}")
    return [source.turns(row) for file in files for row in rows(file)]
