"""What DVC declares for a stage, its MLflow run, which survives a failing store, and sweeps."""
