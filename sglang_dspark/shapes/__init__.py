"""Models' shapes, GPUs' published peaks, and the roofline of one on the other. No torch.

``config`` reads a shape from a ``config.json``; ``attention`` and ``quantization`` hold one kind or method a file.
A new one is a file there and a line in its ``__init__``; a new GPU is a line in ``gpus``.
"""
