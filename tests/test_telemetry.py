"""What tlkit brings along tells nobody that it is in use."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

CODE = """
import os, sys
import tlkit.runs.suite, tlkit.deployment.export
from mlflow.telemetry import get_telemetry_client
told = [name for name, module in sys.modules.items() if module and "openvino_telemetry" in name]
print(get_telemetry_client(), told, os.environ["ORT_DISABLE_TELEMETRY"])
"""


def printed(code: str, **environment: str) -> str:
    # Without what tells libraries that they are tested, by which they keep quiet by themselves.
    known = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
    kept = {name: os.environ[name] for name in known if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
        env={**kept, **environment},
    ).stdout.strip()  # fmt: skip


def test_nobody_is_told_who_was_not_to_be(tmp_path: Path) -> None:
    assert printed(CODE, HOME=str(tmp_path)) == "None [] 1"
    names = [path.name for path in tmp_path.rglob("*")]
    assert not [name for name in names if "onnxruntime" in name or "telemetry" in name]


def test_who_wants_to_tell_them_can() -> None:
    code = "import os, tlkit; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert printed(code, ORT_DISABLE_TELEMETRY="0") == "0"
