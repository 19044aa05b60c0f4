"""What only a GPU can settle, run on one: a server on SGLang's Triton attention, and what its steps take."""
