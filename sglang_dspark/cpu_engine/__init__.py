"""SGLang's DSPARK on a plain CPU, for development and tests: what its CPU engine lacks there, in PyTorch."""

from sglang_dspark.cpu_engine.early import in_use, prepare
from sglang_dspark.cpu_engine.register import register

__all__ = ["in_use", "prepare", "register"]
