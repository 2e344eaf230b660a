"""What a person does at a running program: predictions of a trained model, the review of labels."""
