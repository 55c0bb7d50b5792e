"""Transfer learning for image classification, tracked in MLflow and compared."""

import os
import sys

# Of what is imported below here, three libraries tell their makers of their use without asking, and
# keep a number for the machine. They read this when they are imported; who sets it is heard.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
