"""Architectures, pretrained backbones, numeric precision, and models as files."""
