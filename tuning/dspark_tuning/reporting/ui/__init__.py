"""A local page to explore a scenario with: move its traffic and its policies, see what the simulator makes of it."""
