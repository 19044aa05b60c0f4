"""Model shapes, published peaks of GPUs, and the roofline of a model on a GPU. No torch.

``config`` reads a shape from a ``config.json``; ``attention`` and ``quantization`` have one kind or method per file. A
new one is a file there and an entry in its ``__init__``; a new GPU is an entry of ``gpus.GPUS``.
"""
