"""What every room builds on: terminal output, atomic writes, and the schema of `params.yaml`."""
