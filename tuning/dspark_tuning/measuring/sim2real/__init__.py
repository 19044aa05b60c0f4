"""Experiments that compare the simulator with real SGLang servers on this machine's CPU."""
