"""Outputs of the frozen prefix, computed once and trained on many times."""
