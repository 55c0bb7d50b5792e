"""Several trained models as one, judged on the pictures that they were judged on, and logged."""

import time

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from tlkit.config import Config
from tlkit.data.manifest import Picture
from tlkit.deployment.models import load_models, log_models, separate
from tlkit.deployment.settings import EnsembleSettings
from tlkit.deployment.soup import greedy_soup
from tlkit.errors import UserError
from tlkit.evaluation.calibration import fit_temperature
from tlkit.models.features import last_features, stacked
from tlkit.outcome import Outcome, labels_of, write_outcome
from tlkit.runs.artifacts import log_model
from tlkit.runs.prepare import Data, data_of, log_dataset
from tlkit.serving.classifier import Classifier
from tlkit.serving.ensemble import Ensemble
from tlkit.serving.light import light_seen
from tlkit.serving.reference import reference
from tlkit.serving.stream import classify_files
from tlkit.summary import PhaseResult, table
from tlkit.tracking.lookup import find_run
from tlkit.tracking.registry import find_model, register_model
from tlkit.tracking.run import Tracker, start_run
from tlkit.tracking.tags import INIT_TAG


def run_ensemble(settings: EnsembleSettings) -> str:
    """Average, evaluate and log, as a run called `ensemble`.

    Returns:
        The members and the result side by side.

    Raises:
        UserError: fewer than two models, models of different data, or weights that cannot be
            averaged.
    """
    started = time.perf_counter()
    with start_run("ensemble") as tracker:
        tracker.params(settings.as_dict())
        models = [find_model(address) for address in separate(settings.models)]
        run_ids = [model.run_id for model in models]
        if len(set(run_ids)) < 2:
            raise UserError(f"models={settings.models} is one model; two or more wanted")
        log_models(tracker, models)
        config, data = data_of(run_ids)
        members = load_models(*(model.address for model in models))
        if settings.average == "weights":
            _check_origin(run_ids)
            soup, chosen = greedy_soup(members.members, lambda one: _accuracy(one, data))
            tracker.tags({"tlkit.in_soup": ", ".join(run_ids[index] for index in chosen)})
            rows = _rows(Ensemble((soup,)), data.manifest.of("val"), data, "val")
            temperature = fit_temperature(np.log(rows), labels_of(data.manifest.of("val")))
            result = Ensemble((soup.calibrated(temperature),))
        else:
            result = members
        metrics = _evaluate_and_log(tracker, result, config, data)
        metrics["time/total_seconds"] = time.perf_counter() - started
        tracker.metrics({"time/total_seconds": metrics["time/total_seconds"]})
        results = [_of_run(run_id) for run_id in run_ids]
        results.append(PhaseResult("ensemble", tracker.run_id, metrics))
        text = table(results)
        said = f"The mean of {settings.average} of {len(run_ids)} models.\n\n```\n{text}\n```"
        if any(name.startswith("gradcam/") for name in metrics):
            picture = tracker.artifact_link("gradcam.png")
            said += f"\n\nGrad-CAM of the first one:\n\n![Grad-CAM]({picture})"
        tracker.describe(said)
    if settings.register == "none":
        return f"{text}\nThe model: runs:/{tracker.run_id}/model"
    version = register_model(tracker.run_id, settings.register)
    return f"{text}\nRegistered as {settings.register}, version {version}."


def _check_origin(run_ids: list[str]) -> None:
    origins = {find_run(run_id).tags.get(INIT_TAG) for run_id in run_ids}
    if len(origins) > 1 or None in origins:
        raise UserError(
            "average=weights wants runs from one starting point: finetune runs with the same "
            "init_from"
        )


def _of_run(run_id: str) -> PhaseResult:
    found = find_run(run_id)
    return PhaseResult(f"{found.name} {run_id[:8]}", run_id, dict(found.metrics))


def _rows(
    ensemble: Ensemble, pictures: tuple[Picture, ...], data: Data, what: str
) -> NDArray[np.float64]:
    """Probabilities, float64 (N, classes)."""
    paths = [data.manifest.root / picture.path for picture in pictures]
    stream = classify_files(ensemble, paths)
    rows = []
    for prediction in tqdm(stream, total=len(paths), desc=what, unit="picture", disable=None):
        if prediction.probabilities is None:
            raise UserError(f"{prediction.path} cannot be read any more: {prediction.reason}")
        rows.append(prediction.probabilities)
    return np.stack(rows)


def _accuracy(classifier: Classifier, data: Data) -> float:
    val = data.manifest.of("val")
    rows = _rows(Ensemble((classifier,)), val, data, "val")
    return float((rows.argmax(axis=1) == labels_of(val)).mean())


def _evaluate_and_log(
    tracker: Tracker, ensemble: Ensemble, config: Config, data: Data
) -> dict[str, float]:
    """Read the test split once, and log all that a phase leaves of it, and the model."""
    manifest, first = data.manifest, ensemble.members[0]
    val, test = manifest.of("val"), manifest.of("test")
    with last_features(first.model) as features, light_seen(first) as light:
        on_val = _rows(ensemble, val, data, "val")
    rows = _rows(ensemble, test, data, "test")
    # A mean of calibrated probabilities has no temperature of its own.
    temperature = first.description.temperature if len(ensemble.members) == 1 else None
    outcome = Outcome(test, rows, labels_of(test), manifest.classes, temperature)
    log_dataset(tracker, config, data)
    metrics = {
        "val/best_accuracy": float((on_val.argmax(axis=1) == labels_of(val)).mean()),
        **outcome.metrics,
        "parameters/trainable": 0.0,
        "parameters/total": float(
            sum(p.numel() for member in ensemble.members for p in member.model.parameters())
        ),
    }
    # The model before the figures, of which one may fail.
    tracker.metrics(metrics)
    said = reference(stacked(features).numpy(), on_val, np.concatenate(light))
    log_model(tracker, ensemble, said, manifest)
    with tracker.folder() as folder:
        trust = write_outcome(
            folder,
            outcome,
            first,
            manifest,
            phase="ensemble",
            on_val=on_val,
            device=torch.device("cpu"),
        )
        (folder / "data").mkdir()
        manifest.write(folder / "data" / "manifest.csv")
        config.write(folder / "config.yaml")
    tracker.metrics(trust)
    return metrics | trust
