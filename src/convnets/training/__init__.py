"""From arrays to a trained model: batches, augmentation, cached features and `fit`."""
