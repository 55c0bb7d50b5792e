"""The model as users load it."""
