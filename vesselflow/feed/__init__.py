"""From stores to batches: folds, deterministic order, Ray Data."""
