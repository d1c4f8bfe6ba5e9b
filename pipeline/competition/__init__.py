"""What Kaggle gives and takes. Knows nothing of learning."""
