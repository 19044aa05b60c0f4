"""Triton kernels for the draft side of a DSpark round, each beside a PyTorch reference.

``draft``, ``confidence``, ``verify_lengths`` and ``acceptance`` are the four stages; the other modules of this folder
hold their kernels, checks and launch configurations. ``startup`` is what a server runs before its first request, and
``bench`` times the kernels and counts the bytes that they move.
"""
