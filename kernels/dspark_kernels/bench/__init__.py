"""``python -m dspark_kernels.bench``: time the kernels on a GPU, and count the bytes that they move."""
