"""Make the sample's backbone: a VGG16 that learned from drawn things, but from no cat or dog."""
