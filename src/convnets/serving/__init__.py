"""What a trained model says of somebody's own pictures."""
