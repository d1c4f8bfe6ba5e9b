"""Arrays in, arrays out. Knows no paths and no Kaggle."""
