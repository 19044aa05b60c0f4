"""SGLang on a plain CPU, for tests and development: stand-ins for packages, attention, sampling and patches."""

from sglang_dspark.cpu_engine.early import in_use, prepare

__all__ = ["in_use", "prepare"]
