"""Architectures, pretrained backbones, the numbers that they compute in, and models as files."""
