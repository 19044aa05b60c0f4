"""From what a live server recorded to the simulator's parameters."""
