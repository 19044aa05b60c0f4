"""The GPU check: stages that test kernels, time steps and verify a server on a GPU."""
