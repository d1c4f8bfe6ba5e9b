"""The synthetic dataset: the data of the demo and of the tests."""
