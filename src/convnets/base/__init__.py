"""What every room stands on: a person's screen, whole files, and the schema of `params.yaml`."""
