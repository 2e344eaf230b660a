"""Heads on a backbone's features."""
