"""DSpark verification policy for SGLang: the decision rule, its artifact and the live plugin."""
