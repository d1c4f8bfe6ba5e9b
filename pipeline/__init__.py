"""A pipeline for Kaggle image classification competitions: from Kaggle's files to a checked submission.csv."""
