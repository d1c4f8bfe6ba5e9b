"""Experiment trackers: each epoch and the scores of a run's models, for TensorBoard, Weights & Biases and MLflow."""
