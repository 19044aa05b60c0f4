"""Start-up checks of a server: comparison of the kernels with their references, and compilation of every kernel."""
