"""Models' shapes, GPUs' published peaks, and the roofline of one on the other. No torch."""
