"""Search of a policy in the simulator: space, trials, comparison with baselines."""
