"""What DVC declares for a stage, and its MLflow run, which outlives a store that fails."""
