"""Hostile files: whatever the bytes, a clear error or a result; `make fuzz` searches by coverage."""
