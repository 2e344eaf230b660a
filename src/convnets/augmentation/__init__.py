"""Random changes of images, from a seed."""
