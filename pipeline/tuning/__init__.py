"""Hyperparameter search: trials of a config with other values, by Optuna."""
