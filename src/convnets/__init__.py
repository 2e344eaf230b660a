"""Small-data image classification: chapter 8 of Chollet's *Deep Learning with Python*, measured."""
