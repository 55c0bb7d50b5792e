"""Metrics, figures and Grad-CAM; knows neither models nor MLflow."""
