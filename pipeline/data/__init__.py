"""Kaggle's files -> arrays."""
