"""A local SGLang server of the demo pair: starting it, loading it, steering its policy and checking its answers."""
