"""What trained models are worth: metrics, the comparison, figures, evidence, the report."""
