"""What models are worth: metrics, calibration, chance, and their evidence."""
