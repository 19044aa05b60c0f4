"""The demo pair's tokenizer: byte-level BPE, so that any text encodes and decodes to itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sglang_dspark.files import write_atomically

END = "<|endoftext|>"
MASK = "<|mask|>"
END_ID = 0
MASK_ID = 1

# Plain continuation: a model this small follows no dialogue, and chat requests should still be served.
_CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A tokenizer of ``vocabulary`` tokens, the special ones first. Deterministic in the order of ``texts``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Writes the files from which ``AutoTokenizer`` loads it; ``context`` is the longest input in tokens."""
    write_atomically(folder / "tokenizer.json", tokenizer.to_str(pretty=False))
    config = {
        "add_prefix_space": False,
        "chat_template": _CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "mask_token": MASK,
        "model_max_length": context,
        "pad_token": END,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write_atomically(folder / "tokenizer_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
