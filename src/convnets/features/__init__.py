"""The backbone's features of all images."""
