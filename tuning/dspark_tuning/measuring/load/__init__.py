"""Traffic of a scenario for a real server, and what its clients see of it."""
