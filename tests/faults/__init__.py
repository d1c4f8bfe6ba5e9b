"""Whole jobs that are broken on purpose; `make faults` runs all of it."""
