"""Training data: prompts, the target's answers to them, and cached hidden states."""
