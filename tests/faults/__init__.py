"""Fault injection into whole jobs; `make faults` runs all of it."""
