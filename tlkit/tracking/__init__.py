"""MLflow: the only package that logs."""
