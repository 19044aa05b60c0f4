"""What a request trace holds, a smaller one that is as bursty, and a workload fitted to it."""
