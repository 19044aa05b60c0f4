"""The simulator against a real SGLang server on this machine's CPU."""
