"""A small trained pair for demos and tests: a Qwen3 target and its DSpark drafter. README.md states its origin."""

from __future__ import annotations

from pathlib import Path

TARGET = Path(__file__).parent / "target"
"""Checkpoint of the target, with its tokenizer."""

DRAFT = Path(__file__).parent / "draft"
"""Checkpoint of the drafter, in DeepSpec's layout."""

STS = Path(__file__).parent / "sts.json"
"""The pair's confidence temperatures in SGLang's format."""
