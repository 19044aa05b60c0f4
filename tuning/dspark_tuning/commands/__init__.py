"""The groups of ``dspark`` commands. A new one is a file here and a line in ``dspark_tuning.cli``."""
