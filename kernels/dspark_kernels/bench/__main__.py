"""Run the bench; its functions live in a module of their own because worker processes import them by name."""

import sys

from dspark_kernels.bench.command import main

sys.exit(main())
