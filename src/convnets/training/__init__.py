"""From arrays to a trained model: batches and `fit`."""
