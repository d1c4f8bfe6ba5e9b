"""Arrays in, arrays out: independent of paths and of Kaggle."""
