"""Write a model as ONNX, checked against PyTorch on pictures."""

from tlkit.cli import main
from tlkit.deployment.settings import ExportSettings
from tlkit.process import importing


def task(settings: ExportSettings) -> None:
    with importing():
        from tlkit.deployment.export import run_export
    print(run_export(settings))


if __name__ == "__main__":
    main(task, ExportSettings)
