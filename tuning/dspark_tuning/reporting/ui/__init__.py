"""An interactive local page: change a scenario's traffic and policies and see the simulated results."""
