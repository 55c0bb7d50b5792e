"""Optuna: the only package that knows it."""

import warnings

from optuna.exceptions import ExperimentalWarning

# Heartbeats, retries and grouped sampling are called experimental since years; the lock file pins
# what we tested.
warnings.filterwarnings("ignore", category=ExperimentalWarning)
