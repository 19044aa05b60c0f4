"""How a trace file is read: what the user states because the file does not say it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from dspark_simulator.workloads.model import Described, Positive

TimeUnit = Literal["s", "ms", "us", "ns"]

ROLES = ("arrival", "prompt", "output", "class", "cached")


class TraceSettings(Described):
    """How to read a trace.

    Attributes:
        format: Name of the file's format; by default the file's content decides.
        columns: Column of a table of one's own by what it holds: arrival, prompt, output, class, cached. A column is a
            name (with dots into nested JSON) or a number from 1.
        delimiter: What separates the fields of a text table; by default the content decides.
        time_unit: Unit of arrival times that are numbers; by default their magnitude decides.
        class_of: YAML file of rules that give each request its class.
        rate_per_s: Requests per second of a file without arrival times: Poisson arrivals in the order of the file.
        tokenizer: Hugging Face name or folder of the tokenizer that counts the tokens of a file of texts.
        chars_per_token: Characters of a token, by which the lengths of texts are estimated instead.
        block_tokens: Tokens of a block of prefix hashes; by default those of the format.
    """

    format: str | None = None
    columns: dict[str, str] = Field(default={})
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    time_unit: TimeUnit | None = None
    class_of: Path | None = None
    rate_per_s: Positive | None = None
    tokenizer: str | None = None
    chars_per_token: Positive | None = None
    block_tokens: Annotated[int, Field(ge=1)] | None = None

    @field_validator("columns", mode="before")
    @classmethod
    def _as_names(cls, columns: object) -> object:
        # YAML reads a column number as a number.
        return {k: str(v) for k, v in columns.items()} if isinstance(columns, dict) else columns

    @field_validator("columns")
    @classmethod
    def _known(cls, columns: dict[str, str]) -> dict[str, str]:
        for role in columns:
            if role not in ROLES:
                raise ValueError(f"{role!r} is not known; columns hold {', '.join(ROLES)}")
        return columns
