"""Convnets to train from scratch."""
