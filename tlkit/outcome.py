"""What a finished training leaves: test metrics, figures and files, in one folder."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from tqdm import tqdm

from tlkit.data.images import read_picture
from tlkit.data.manifest import Manifest, Picture
from tlkit.evaluation.calibration import coverage, rescale
from tlkit.evaluation.calibration_figure import calibration_figure
from tlkit.evaluation.canvas import save
from tlkit.evaluation.clusters import effective_size, group_numbers
from tlkit.evaluation.figures import confusion_matrix, curves
from tlkit.evaluation.gradcam_check import check_gradcam
from tlkit.evaluation.gradcam_check_figure import gradcam_check_figure
from tlkit.evaluation.label_check import doubts
from tlkit.evaluation.metrics import (
    accuracy_interval,
    classification_metrics,
    confusion,
    confusion_json,
    expected_calibration_error,
    log_loss,
    per_class_report,
)
from tlkit.evaluation.tiles import (
    Tile,
    choose_indices,
    doubtful_labels,
    gradcam_sheet,
    mistake_indices,
    mistakes,
    overlay,
)
from tlkit.files import short_stem, write_csv, write_json
from tlkit.heat_maps import NoHeatMaps, compiled, heat_maps
from tlkit.models.freezing import from_the_top
from tlkit.serving.classifier import Classifier, probability_columns
from tlkit.serving.predict import predict_probabilities
from tlkit.training.loop import Result

GRADCAM_TILES = 12
MISTAKE_TILES = 24
DOUBTED_TILES = 25


@dataclass(frozen=True)
class Outcome:
    """The test split as one model sees it.

    Attributes:
        pictures: in the order of the rows of `probabilities`.
        probabilities: float64 (N, classes).
        labels: int64 (N,).
        classes: names.
        temperature: what the logits behind the probabilities were divided by; None of a mean of
            several models, which has none of its own.
    """

    pictures: Sequence[Picture]
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    temperature: float | None

    @cached_property
    def metrics(self) -> dict[str, float]:
        """`test/accuracy`, its interval and the others of the contract; where there is a
        temperature, it, and loss and ece also uncalibrated."""
        values = classification_metrics(self.probabilities, self.labels)
        values["accuracy_low"], values["accuracy_high"] = self.interval
        if self._groups is not None:
            values["groups"] = float(self._groups.max() + 1)
        found = {f"test/{name}": value for name, value in values.items()}
        if self.temperature is None:
            return found
        before = rescale(self.probabilities, 1 / self.temperature)
        return found | {
            "temperature": self.temperature,
            "test/loss_uncalibrated": log_loss(before, self.labels),
            "test/ece_uncalibrated": expected_calibration_error(before, self.labels),
        }

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Which pictures were classified right, bool (N,)."""
        right: NDArray[np.bool_] = self.probabilities.argmax(axis=1) == self.labels
        return right

    @property
    def correct(self) -> int:
        """How many pictures were classified right."""
        return int(self.right.sum())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy."""
        groups, right = self._groups, self.right.astype(np.float64)
        effective = None if groups is None else effective_size(right, groups)
        return accuracy_interval(self.correct, len(self.labels), effective=effective)

    @cached_property
    def _groups(self) -> NDArray[np.int64] | None:
        """None where each picture stands for itself."""
        names = [picture.group for picture in self.pictures]
        return group_numbers(names) if any(names) else None


def evaluate(
    manifest: Manifest,
    model: nn.Module,
    batches: Iterable[torch.Tensor],
    device: torch.device,
    temperature: float,
) -> Outcome:
    """Predict the test split: the one time that a run reads it.

    Args:
        model: a classifier's, or the part of it that is left to compute.
        batches: what `model` takes, of the test pictures in the manifest's order.
        temperature: what the logits are divided by.
    """
    test = manifest.of("test")
    with tqdm(total=len(test), desc="test", unit="picture", disable=None) as progress:

        def told() -> Iterator[torch.Tensor]:
            for batch in batches:
                yield batch
                progress.update(len(batch))

        probabilities = predict_probabilities(model, told(), device, temperature)
    return Outcome(test, probabilities, labels_of(test), manifest.classes, temperature)


def labels_of(pictures: Sequence[Picture]) -> NDArray[np.int64]:
    """int64 (N,)."""
    return np.array([picture.label for picture in pictures], dtype=np.int64)


def write_history(folder: Path, phase: str, result: Result) -> None:
    """Write what the contract has of the training."""
    write_json(folder / "history.json", result.history)
    figure = curves(result.history, f"{phase}: training", result.best_epoch, result.line)
    save(figure, folder / "curves.png")


def write_label_check(
    folder: Path,
    pictures: Sequence[Picture],
    features: NDArray[np.float32],
    classifier: Classifier,
    manifest: Manifest,
) -> int:
    """Write which labels of training and validation pictures are to be doubted, and say how many.

    Args:
        features: of the pictures, (n, d), of a backbone that has not learned from them.
    """
    classes = manifest.classes
    groups = group_numbers([picture.group for picture in pictures])
    doubted = doubts(features, labels_of(pictures), len(classes), groups)
    found = [(pictures[doubt.index], classes[doubt.looks_like], doubt.margin) for doubt in doubted]
    # Frames of one film need not be seen one by one: of each group the most doubtful.
    first = {groups[doubt.index]: place for place, doubt in reversed(list(enumerate(doubted)))}
    shown = sorted(first.values())[:DOUBTED_TILES]
    write_csv(
        folder / "label_check.csv",
        ["path", "split", "label", "looks_like", "margin"],
        (
            [one.path, one.split, classes[one.label], name, f"{margin:.9g}"]
            for one, name, margin in found
        ),
    )
    tiles = [
        Tile(
            picture=np.asarray(_read(classifier, manifest.root / one.path)),
            true=classes[one.label],
            predicted=name,
            confidence=margin,
            path=one.path,
        )
        for one, name, margin in (found[place] for place in shown)
    ]
    of_groups = len(first) if any(picture.group for picture in pictures) else None
    title = "head: labels that the other pictures contradict"
    figure = doubtful_labels(
        tiles, title, doubted=len(found), total=len(pictures), groups=of_groups
    )
    save(figure, folder / "label_check.png")
    return len(found)


def write_outcome(
    folder: Path,
    outcome: Outcome,
    classifier: Classifier,
    manifest: Manifest,
    *,
    phase: str,
    on_val: NDArray[np.float64],
    device: torch.device,
) -> dict[str, float]:
    """Write the figures and files of the contract that tell of the test.

    Args:
        classifier: whose Grad-CAM is drawn.
        on_val: calibrated probabilities of the validation pictures, float64 (M, classes), on which
            a confidence to abstain below may be chosen.

    Returns:
        `gradcam/...`: what the tests of the heat maps measured.
    """
    classes = outcome.classes
    matrix = confusion(outcome.probabilities, outcome.labels)
    (folder / "confusion_matrix.json").write_text(confusion_json(matrix, classes), encoding="utf-8")
    report = per_class_report(outcome.probabilities, outcome.labels, classes)
    write_json(folder / "classification_report.json", report)
    _write_predictions(folder / "predictions.csv", outcome)
    save(
        confusion_matrix(matrix, classes, f"{phase}: test pictures"),
        folder / "confusion_matrix.png",
    )
    write_json(
        folder / "calibration.json",
        _calibration_facts(outcome, on_val, labels_of(manifest.of("val"))),
    )
    save(
        calibration_figure(
            outcome.probabilities,
            outcome.labels,
            outcome.temperature,
            f"{phase}: confidence on the test pictures",
        ),
        folder / "calibration.png",
    )
    wrong = [
        _tile(outcome, classifier, manifest.root, index)
        for index in mistake_indices(outcome.probabilities, outcome.labels, MISTAKE_TILES)
    ]
    save(
        mistakes(
            wrong,
            f"{phase}: mistakes on the test pictures",
            wrong=len(outcome.labels) - outcome.correct,
            total=len(outcome.labels),
        ),
        folder / "mistakes.png",
    )
    return _write_gradcam(folder, outcome, classifier, manifest.root, phase, device)


def _calibration_facts(
    outcome: Outcome, on_val: NDArray[np.float64], val_labels: NDArray[np.int64]
) -> dict[str, Any]:
    """The temperature, and what abstaining below a confidence costs and gains on either split."""
    return {
        "temperature": outcome.temperature,
        "abstain_on_validation": _abstaining(on_val, val_labels),
        "abstain_on_test": _abstaining(outcome.probabilities, outcome.labels),
    }


def _abstaining(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> list[dict[str, float | None]]:
    return [
        {**asdict(row), "accuracy": None if np.isnan(row.accuracy) else row.accuracy}
        for row in coverage(probabilities, labels)
    ]


def _write_gradcam(
    folder: Path,
    outcome: Outcome,
    classifier: Classifier,
    root: Path,
    phase: str,
    device: torch.device,
) -> dict[str, float]:
    """The sheet, its overlays one by one, and the tests of whether the maps are to be trusted; of a
    network without heat maps nothing."""
    indices = choose_indices(outcome.probabilities, outcome.labels, GRADCAM_TILES)
    shown = [_read(classifier, root / outcome.pictures[index].path) for index in indices]
    inputs = torch.stack([classifier.preprocessing.tensor(picture) for picture in shown]).to(device)
    named = torch.from_numpy(outcome.probabilities[indices].argmax(axis=1)).to(device)
    try:
        check = check_gradcam(
            classifier.model,
            heat_maps,
            inputs,
            named,
            from_the_top(classifier.model),
            predict=compiled(classifier.model, inputs),
        )
    except NoHeatMaps as error:
        print(error, file=sys.stderr)
        return {}
    tiles = [
        _tile(outcome, classifier, root, index, heat)
        for index, heat in zip(indices, check.maps, strict=True)
    ]
    sheet = gradcam_sheet(
        tiles,
        f"{phase}: evidence for the predicted class (Grad-CAM)",
        of_first=outcome.temperature is None,
    )
    save(sheet, folder / "gradcam.png")
    (folder / "gradcam").mkdir()
    for number, (tile, heat) in enumerate(zip(tiles, check.maps, strict=True)):
        name = f"{number:02d}-{short_stem(tile.path)}.png"
        Image.fromarray(overlay(tile.picture, heat)).save(folder / "gradcam" / name)
    write_json(folder / "gradcam_check.json", check.as_dict())
    save(
        gradcam_check_figure(check, tiles[0].picture, f"{phase}: are the heat maps to be trusted?"),
        folder / "gradcam_check.png",
    )
    return check.metrics


def _read(classifier: Classifier, path: Path) -> Image.Image:
    """As the network sees it."""
    return classifier.preprocessing.picture(read_picture(path, classifier.description.max_pixels))


def _tile(
    outcome: Outcome,
    classifier: Classifier,
    root: Path,
    index: int,
    heat: NDArray[np.float32] | None = None,
) -> Tile:
    picture, row = outcome.pictures[index], outcome.probabilities[index]
    return Tile(
        picture=np.asarray(_read(classifier, root / picture.path)),
        true=outcome.classes[picture.label],
        predicted=outcome.classes[int(row.argmax())],
        confidence=float(row.max()),
        path=picture.path,
        heat=heat,
    )


def _write_predictions(path: Path, outcome: Outcome) -> None:
    classes = outcome.classes
    rows = (
        [picture.path, classes[picture.label], classes[row.argmax()], *map("{:.9g}".format, row)]
        for picture, row in zip(outcome.pictures, outcome.probabilities, strict=True)
    )
    write_csv(path, ["path", "label", "predicted", *probability_columns(classes)], rows)
