"""Transfer learning for image classification, tracked in MLflow and compared."""
