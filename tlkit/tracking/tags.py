"""Tags of our runs in MLflow."""

PHASE_TAG, DIGEST_TAG, INIT_TAG = "tlkit.phase", "tlkit.data_digest", "tlkit.init_from"
SETTINGS_TAG, WENT_ON_TAG = "tlkit.settings", "tlkit.went_on_from"
TRIAL_TAG, TRIAL_STATE_TAG = "tlkit.trial", "tlkit.trial_state"
REPEATS_TAG = "tlkit.repeats"
BEST_RUN_TAG = "tlkit.best_run"
