"""Builders of packaged data from published figures; no part of a simulation."""
