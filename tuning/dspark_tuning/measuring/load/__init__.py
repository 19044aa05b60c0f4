"""Load a real server with the traffic of a scenario, and measure latencies and rates at its clients."""
