"""A process that resolves several servers in turn, since loading plugins changes SGLang for the rest of a process.

Reads a list of questions as JSON, each with ``arguments``, ``gpu`` and ``environment``, and prints the answers.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple


class Question(NamedTuple):
    """A server's command line, the GPU it is for, and variables that its operator has set."""

    arguments: tuple[str, ...]
    gpu: str | None
    environment: dict[str, str] = {}  # noqa: RUF012


def ask(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """The answers: ``error``, or ``mode``, ``said``, ``backend`` and ``captured``; ``log`` of either."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.serving.answers"],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return found


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _answer(question: Question) -> dict[str, Any]:
    from sglang_dspark.errors import InputError
    from sglang_dspark.serving import serve_check

    kept = _Kept()
    logging.getLogger("sglang_dspark").handlers = [kept]
    os.environ.update(question.environment)
    try:
        found = serve_check.answer(question.arguments, question.gpu)
    except InputError as error:
        return {"error": str(error), "log": kept.lines}
    finally:
        for name in question.environment:
            os.environ.pop(name, None)
    return {
        "mode": found.choice.mode,
        "said": found.summary,
        "backend": found.attention_backend,
        "captured": list(found.captured_tokens),
        "log": kept.lines,
        "left": {
            name: os.environ[name] for name in ("DSPARK_SERVING", "SGLANG_RAGGED_VERIFY_MODE") if name in os.environ
        },
    }


if __name__ == "__main__":
    print(json.dumps([_answer(Question(*question)) for question in json.load(sys.stdin)]))
