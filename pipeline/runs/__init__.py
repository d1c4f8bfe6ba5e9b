"""The folder of a run: configs, folds, weights, logits, checksums."""
