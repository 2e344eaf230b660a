"""What DVC declares for a stage, and its MLflow run, which survives a failing store."""
