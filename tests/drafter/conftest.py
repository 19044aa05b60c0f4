"""One thread a process: tests already run side by side, and PyTorch's threads wait for each other by spinning."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
try:
    import torch
except ModuleNotFoundError:
    # The tests themselves skip.
    pass
else:
    torch.set_num_threads(1)
