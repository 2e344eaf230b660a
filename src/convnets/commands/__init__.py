"""What `python -m convnets` answers about data and experiments."""
