"""Entry points: one short module each, run as `python -m experiments.NAME`."""
