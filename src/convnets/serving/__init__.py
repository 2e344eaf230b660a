"""Predictions of a trained model for the user's own images."""
