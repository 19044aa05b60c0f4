"""The demo pair's tokenizer: byte-level BPE, lossless on any text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sglang_dspark.files import write_atomically

END = "<|endoftext|>"
MASK = "<|mask|>"
END_ID = 0

# Plain continuation: so small a model follows no dialogue, but must still serve chat requests.
_CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a tokenizer of ``vocabulary`` tokens, special ones first; deterministic in the order of ``texts``."""
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
    """Write the files that ``AutoTokenizer`` loads; ``context`` is the longest input in tokens."""
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
