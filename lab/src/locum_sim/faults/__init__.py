"""Faults that the simulation injects, by subject."""
