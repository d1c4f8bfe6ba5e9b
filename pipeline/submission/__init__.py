"""Predictions -> submission.csv -> Kaggle."""
