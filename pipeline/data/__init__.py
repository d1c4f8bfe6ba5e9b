"""The competition's files -> arrays."""
