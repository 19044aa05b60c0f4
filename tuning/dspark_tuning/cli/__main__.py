"""``python -m dspark_tuning.cli``: the ``dspark`` command."""

from dspark_tuning.cli import main

main()
