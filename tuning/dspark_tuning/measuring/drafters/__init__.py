"""What offline rounds say of a drafter: figures with intervals, a page, and an acceptance model for the simulator."""
