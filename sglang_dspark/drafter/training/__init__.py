"""Training of drafters from recipes: recipes, texts, the loop, and resumable state."""
