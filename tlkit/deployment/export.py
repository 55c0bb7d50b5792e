"""Write a model as ONNX, and check it against PyTorch on pictures."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from tlkit.data.given import find_pictures
from tlkit.data.images import UnreadablePicture, read_bytes
from tlkit.deployment.models import find_and_log, load_models, separate
from tlkit.deployment.settings import ExportSettings
from tlkit.errors import UserError
from tlkit.files import cache_folder, disk_faults_told, output_folder, write_json
from tlkit.models.onnx import INPUT, write_onnx
from tlkit.serving.ensemble import Ensemble
from tlkit.tracking.run import start_run

CHECKED = 200
TOLERANCE = 1e-4


class Probabilities(nn.Module):
    """Normalised pictures, float32 (N, 3, H, W), to the mean of the members' probabilities."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.models = nn.ModuleList(member.model for member in ensemble.members)
        self.temperatures = [member.description.temperature for member in ensemble.members]

    def forward(self, pictures: Tensor) -> Tensor:
        rows = [
            (model(pictures) / temperature).softmax(dim=1)
            for model, temperature in zip(self.models, self.temperatures, strict=True)
        ]
        return torch.stack(rows).mean(dim=0)


def run_export(settings: ExportSettings) -> str:
    """Export and check, as a run called `export`.

    Returns:
        Where the files are, and the largest difference.

    Raises:
        UserError: no such model or pictures, members that want different preprocessing, a
            difference above 1e-4, or an output folder that is not empty.
    """
    given = find_pictures(settings.images, cache_folder() / "data")
    output = output_folder(settings.output)
    with start_run("export") as tracker:
        tracker.params(settings.as_dict())
        models = find_and_log(tracker, separate(settings.model))
        ensemble = load_models(*(model.address for model in models))
        _check_preprocessing(ensemble)
        inputs = _inputs(ensemble, [given.root / name for name in given.names[:CHECKED]])
        with tracker.folder() as folder:
            export(ensemble, folder)
            difference = largest_difference(ensemble, folder / "model.onnx", inputs)
            if difference > TOLERANCE:
                raise UserError(
                    f"ONNX Runtime differs from PyTorch by {difference:.2g} on {len(inputs)} "
                    f"pictures; at most {TOLERANCE:g} is wanted, so nothing was written"
                )
            if output is not None:
                with disk_faults_told(output):
                    shutil.copytree(folder, output, dirs_exist_ok=True)
        tracker.metrics({"export/difference": difference, "export/pictures": float(len(inputs))})
        where = str(output) if output else tracker.artifact_place()
        said = (
            f"model.onnx and model.json are in {where}; on {len(inputs)} pictures the largest "
            f"difference of a probability from PyTorch is {difference:.1e}"
        )
        tracker.describe(said + ".")
    return said


def _check_preprocessing(ensemble: Ensemble) -> None:
    first, *others = (member.description.preprocessing for member in ensemble.members)
    if any(other != first for other in others):
        raise UserError("the models want different preprocessing; export each by itself")


def export(ensemble: Ensemble, folder: Path) -> None:
    """Write model.onnx, float32 (N, 3, H, W) to probabilities (N, classes) for any N, and
    model.json: classes, and the preprocessing that the pictures want, the same for all members.
    """
    preprocessing = ensemble.members[0].description.preprocessing
    example = torch.zeros(2, *preprocessing["input_size"])
    write_onnx(Probabilities(ensemble).eval(), example, folder / "model.onnx", any_number=True)
    facts = {
        "classes": list(ensemble.classes),
        "preprocessing": preprocessing,
        "members": [asdict(member.description) for member in ensemble.members],
    }
    write_json(folder / "model.json", facts)


def largest_difference(ensemble: Ensemble, file: Path, inputs: Tensor) -> float:
    """Of any probability, between ONNX Runtime and PyTorch, one picture and many at a time."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    pieces = [inputs[:1], *torch.split(inputs[1:], 32)]
    rows = [session.run(None, {INPUT: p.numpy()})[0] for p in pieces if len(p)]
    expected = np.concatenate(
        [
            ensemble.classify([(tensor[None],) * len(ensemble.members) for tensor in piece])
            for piece in torch.split(inputs, 32)
        ]
    )
    return float(np.abs(np.concatenate(rows) - expected).max())


def _inputs(ensemble: Ensemble, paths: list[Path]) -> Tensor:
    tensors = []
    for path in paths:
        try:
            tensors.append(ensemble.prepare(read_bytes(path, ensemble.max_pixels))[0])
        except UnreadablePicture:
            continue  # predict lists those; here they are no evidence either way
    if not tensors:
        raise UserError("none of the images can be read; give pictures to check the export on")
    return torch.cat(tensors)
