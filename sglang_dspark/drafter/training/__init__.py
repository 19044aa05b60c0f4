"""Training of drafters from recipes: what a step learns from, the loop, and what an interrupted run goes on from."""
