"""Prompts, answers that the target writes to them, and what the target makes of both."""
