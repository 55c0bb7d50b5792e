"""Write a model as ONNX, checked against PyTorch on pictures."""

from tlkit.cli import main
from tlkit.deployment.export import run_export
from tlkit.deployment.settings import ExportSettings


def task(settings: ExportSettings) -> None:
    print(run_export(settings))


if __name__ == "__main__":
    main(task, ExportSettings)
