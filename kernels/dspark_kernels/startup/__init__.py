"""What a server runs before its first request: comparison with the references, and compilation of every kernel."""
