"""A pipeline for Kaggle's CIFAR-10 competition: from Kaggle's files to a checked submission.csv."""
