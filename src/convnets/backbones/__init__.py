"""The pretrained backbone, whole and in two parts."""
