"""Recording of a running server's steps: what is read from it, and the file it is kept in."""
