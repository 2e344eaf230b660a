"""What a model is: its last layer, its file, its precision, what its training leaves."""
