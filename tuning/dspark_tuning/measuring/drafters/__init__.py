"""The evaluation of a drafter by offline rounds: figures with intervals, and an acceptance model for the simulator."""
