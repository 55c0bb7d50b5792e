"""Two models behind one address: each request goes to champion or challenger by its key.

MLflow runs this file when it loads the model, so nothing is unpickled.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from tlkit.files import utf8
from tlkit.serving.answer import Route, Served, question, refused
from tlkit.serving.guard import guard_server
from tlkit.serving.log_entry import MAX_KEY
from tlkit.serving.request_log import log_of_environment

KEY_COLUMN = "key"
CHAMPION, CHALLENGER = "champion", "challenger"

# What MLflow makes of null and NaN in `inputs` and `instances`, before the model sees them.
_MISSING = ("None", "nan")

# Every assignment is logged: here, in the server's folder, where TLKIT_REQUEST_LOG is not set.
DEFAULT_LOG = "sqlite:///requests.db"


def assign(key: str, salt: str, share: float) -> str:
    """Champion or challenger, always the same for a key: the challenger for `share` of all keys.

    Args:
        salt: another one deals the keys anew.
        share: 0..1.
    """
    digest = hashlib.sha256(f"{salt}\0{key}".encode()).digest()
    return CHALLENGER if int.from_bytes(digest[:8], "big") < share * 2**64 else CHAMPION


class RouterModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc,name-defined]
    """Takes the columns `image` and `key`, and says in `served_by` which model answered."""

    def load_context(self, context: Any) -> None:
        """Load both models from the router's artifacts."""
        guard_server()
        settings = json.loads(Path(context.artifacts["router"]).read_text(encoding="utf-8"))
        self._share, self._salt = float(settings["share"]), str(settings["salt"])
        log = log_of_environment(DEFAULT_LOG)
        self._served = {
            name: Served.load(Path(context.artifacts[name]), log) for name in (CHAMPION, CHALLENGER)
        }

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """As a single model's answer, and `served_by`: champion or challenger.

        Args:
            params: `tta` and `abstain` of a single model.

        Raises:
            MlflowException: as a single model, and for a key that is no text, missing, empty or too
                long. Nothing of the request is logged then.
        """
        came = time.time()
        asked = question(model_input, params)
        keys = list(model_input[KEY_COLUMN])
        for number, key in enumerate(keys, start=1):
            # None and NaN would all be dealt as one user, and half a letter is hashed by nothing.
            if not isinstance(key, str) or utf8(key) != key:
                raise refused(
                    f"the key of picture {number} is {key!a}; a text of 1 to {MAX_KEY} characters "
                    "wanted"
                )
            if key in _MISSING:
                raise refused(
                    f"the key of picture {number} is null, NaN or the text {key!r}, which are all "
                    "the same here; another text wanted"
                )
            if not 0 < len(key) <= MAX_KEY:
                raise refused(
                    f"the key of picture {number} has {len(key)} characters; 1 to {MAX_KEY} wanted"
                )
        names = [assign(key, self._salt, self._share) for key in keys]
        dealt = {
            name: [index for index, chosen in enumerate(names) if chosen == name]
            for name in self._served
            if name in names
        }
        # All is computed before any of it is logged: one bad picture refuses the whole request.
        asked_of = {name: asked.part(rows) for name, rows in dealt.items()}
        found = {name: self._served[name].compute(part) for name, part in asked_of.items()}
        parts = []
        for name, rows in dealt.items():
            served = self._served[name]
            routes = [Route(name, keys[index], self._share) for index in rows]
            served.write(came, asked_of[name], found[name], routes)
            table = served.table(asked_of[name], found[name])
            table.insert(1, "served_by", name)
            parts.append(table.set_index(pd.Index(rows)))
        return pd.concat(parts).sort_index()


mlflow.models.set_model(RouterModel())
