"""Draft models in PyTorch: families, training by recipe, and speculative decoding offline.

A new family is one file (a recipe shape, a configuration and a :class:`base.Drafter`) and one line in
``families.FAMILIES``.
"""
