"""Draft models in PyTorch: the DSpark drafter, its training, and rounds played offline."""
