"""Builds the packaged pair anew: ``python -m sglang_dspark.drafter.build_demo``, under an hour on two idle cores.

The text is the running Python's standard library and floating-point sums depend on the CPU, so another machine gives
another pair of about the same figures. On the same machine it is the same.
"""

from __future__ import annotations

import argparse
import logging
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer

from sglang_dspark import demo
from sglang_dspark.drafter import checkpoint, train_drafter, train_target
from sglang_dspark.drafter.evaluate import PROMPT, SEED, Figures, Rounds, figures, join, save_shard
from sglang_dspark.drafter.target import Target
from sglang_dspark.drafter.text import HELD_OUT_PERCENT
from sglang_dspark.files import write_atomically

log = logging.getLogger(__name__)

PROMPTS = 32
NEW = 128


def main() -> None:
    """``python -m sglang_dspark.drafter.build_demo [--out DIR] [--measure]``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path(demo.__file__).parent)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help="keep the weights; only calibrate and measure again")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    target, draft = arguments.out / demo.TARGET.name, arguments.out / demo.DRAFT.name
    started = time.monotonic()
    if not arguments.measure:
        train_target.train(target, train_target.STEPS)
        log.info("target trained in %.0f s", time.monotonic() - started)
        train_drafter.train(target, draft, train_drafter.STEPS)
        log.info("both trained in %.0f s", time.monotonic() - started)
    pair = Target.load(str(target)), checkpoint.load(draft)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    # Temperatures are fitted on other prompts than those that the figures speak of.
    calibrate(figures(*pair, tokenizer, PROMPTS, NEW, (0.0,), SEED + 1), arguments.out)
    write_atomically(
        arguments.out / "README.md", readme(arguments.out, figures(*pair, tokenizer, PROMPTS, NEW, (0.0, 1.0), SEED))
    )
    log.info("built in %.0f s", time.monotonic() - started)


def calibrate(measured: list[Figures], out: Path) -> None:
    """Fits confidence temperatures by SGLang's own command and writes ``sts.json``."""
    command = [sys.executable, "-m", "sglang.benchmark.dspark_sts_fit"]
    with tempfile.TemporaryDirectory() as folder:
        save_shard(join([each.rounds for each in measured]), Path(folder) / "rounds.pt")
        # The file names its source: relative, so that it does not say where it was made.
        subprocess.run([*command, "--data-glob", "rounds.pt", "--out", "sts.json"], check=True, cwd=folder)
        write_atomically(out / demo.STS.name, (Path(folder) / "sts.json").read_bytes())


def readme(out: Path, measured: list[Figures]) -> str:
    """What is in the folder, how it was made, and what it does."""
    files = sorted(path for path in out.rglob("*") if path.suffix in {".json", ".safetensors"})
    size = sum(path.stat().st_size for path in files)
    rows = [_row(each.klass, each.temperature, each.rounds) for each in measured]
    for temperature in sorted({each.temperature for each in measured}):
        together = join([each.rounds for each in measured if each.temperature == temperature])
        rows.append(_row("all", temperature, together))
    return f"""# The demo pair

A Qwen3-architecture target of 4.2 million parameters and its DSpark drafter of 1.6 million, half a million of them the
target's embedding and output head again, as DeepSpec's layout has it. bfloat16, {size / 1e6:.1f} MB with the tokenizer.
Serve them in float32: greedy output is then exact.

Made by `python -m sglang_dspark.drafter.build_demo` from the standard library of Python
{platform.python_version()}, seed {train_target.SEED}, with torch {torch.__version__} and transformers
{transformers.__version__}.

- Text: modules, docstrings and help topics, character maps. {HELD_OUT_PERCENT} % of the documents are held out, by a
  hash of their names (`sglang_dspark.drafter.text`).
- Target: {train_target.STEPS} steps of {train_target.BATCH} passages of {train_target.LENGTH} tokens.
- Drafter: {train_drafter.STEPS} steps of {train_drafter.BATCH * train_drafter.ANCHORS} blocks on
  {train_drafter.SEQUENCES} texts of {train_drafter.LENGTH} tokens that the target wrote after passages of its training
  text, half of them greedily, the rest at temperatures 0.7 and 1; every fourth step on that text itself, in passages
  twice as long. It starts from the target's last attention and from a Markov head that knows pairs of tokens. Losses as
  in arXiv 2607.05147, section 3.3.
- `sts.json`: confidence temperatures fitted by `sglang.benchmark.dspark_sts_fit` on greedy rounds over other held-out
  prompts than those below, with the ECE of the survival at each place before and after.

Measured by `build_demo --measure`, which plays rounds without a server: {PROMPTS} held-out prompts a class of {PROMPT}
tokens, {NEW} tokens each. Accepted length counts the target's own token; acceptance is that of drafts whose prefix was
accepted, by place; ROC-AUC is that of their raw confidences.

| class | temperature | rounds | accepted length | acceptance | ROC-AUC |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""


def _row(name: str, temperature: float, rounds: Rounds) -> str:
    shares = " ".join(f"{share:.2f}" for share in rounds.acceptance_by_place())
    figures = f"{len(rounds.accepted)} | {rounds.accepted_length:.2f} | {shares} | {rounds.roc_auc():.3f}"
    return f"| {name} | {temperature:g} | {figures} |"


if __name__ == "__main__":
    main()
