"""One phase, from its configuration to a logged result."""

import shutil
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tlkit.config import Config
from tlkit.data.manifest import Picture
from tlkit.evaluation.calibration import fit_temperature
from tlkit.features.fill import Report
from tlkit.features.inputs import Pictures
from tlkit.lineage import best_checkpoint, has_checkpoint, refuse_seen
from tlkit.outcome import (
    Outcome,
    evaluate,
    labels_of,
    write_history,
    write_label_check,
    write_outcome,
)
from tlkit.phases.engine import evaluation_inputs
from tlkit.phases.identity import head_settings, training_key
from tlkit.phases.machine import machine_for
from tlkit.phases.network import refuse_network
from tlkit.phases.prepare import Phase, prepare_phase
from tlkit.phases.train import train_phase
from tlkit.runs.artifacts import log_inputs, log_model, work_folder
from tlkit.runs.prepare import Data, prepare_data
from tlkit.serving.light import light
from tlkit.serving.reference import reference
from tlkit.summary import PhaseResult, of_phase
from tlkit.tracking.lookup import finished_runs
from tlkit.tracking.run import Tracker, start_run, tell_killed
from tlkit.tracking.tags import DIGEST_TAG, INIT_TAG, PHASE_TAG, SETTINGS_TAG, WENT_ON_TAG
from tlkit.training.allocator import full_cards_told
from tlkit.training.batches import plain_batches
from tlkit.training.checkpoints import load_result
from tlkit.training.loop import CRITERION, SHARE, Result
from tlkit.training.progress import Progress, progress_of

# Validation pictures whose brightness and contrast the reference holds.
MOST_LIT = 500


@dataclass(frozen=True)
class AlreadyTrained:
    """What another run trained already.

    Attributes:
        run_id: of that run.
        folder: with a folder a phase, what `train_phase` left in `checkpoints`: the phase itself,
            and of a finetune its head, where that run trained one.
    """

    run_id: str
    folder: Path

    def begin(self, phase: str, checkpoints: Path) -> float:
        """Make the folder of the checkpoints of a phase; the seconds that all of it took."""
        shutil.copytree(self.folder / phase, checkpoints)
        results = [load_result(each) for each in self.folder.iterdir()]
        return sum(result.seconds for result in results if result)


def run_phase(
    name: str,
    config: Config,
    *,
    data: Data | None = None,
    parent: str | None = None,
    trained: AlreadyTrained | None = None,
    until: ExitStack | None = None,
) -> PhaseResult:
    """Train, evaluate and log one phase; where the same was interrupted, go on with it.

    Args:
        name: "baseline", "head" or "finetune".
        data: what `prepare_data` gave, where the caller has it already.
        parent: id of the run that this one is logged under, if any.
        trained: is not trained again; there is no run of its head alone.
        until: how far the training came is kept until this is closed; without it, until the phase
            is logged.

    Raises:
        UserError: the configuration, the data or the machine do not allow it.
    """
    started = time.perf_counter()
    with (
        ExitStack() if until is None else nullcontext(until) as stack,
        start_run(name, parent=parent, system_metrics=True) as tracker,
        full_cards_told(),
        work_folder(tracker) as folder,
    ):
        tracker.params(config.as_dict())
        if data is None:
            refuse_network(name, config)
            data = prepare_data(config)
        phase = prepare_phase(name, config, data.manifest, machine_for(config))
        log_inputs(tracker, folder, config, data, phase.pictures, phase.machine)
        tracker.tags({SETTINGS_TAG: head_settings(config, phase.network, phase.machine)})
        if name == "finetune":
            phase = _begun_from_head(tracker, phase, data, trained)
        checkpoints, progress, elsewhere = folder / "checkpoints", None, 0.0
        if trained is None:
            checkpoints.mkdir()
            progress = stack.enter_context(
                progress_of(
                    training_key(phase),
                    tracker.run_id,
                    lost=partial(tell_killed, living=tracker.run_id),
                    went_on=lambda run_id: tracker.tags({WENT_ON_TAG: run_id}),
                )
            )
        else:
            elsewhere = trained.begin(name, checkpoints)
        result, report, (logits, features), frozen = _train(phase, tracker, checkpoints, progress)
        if progress is not None:
            elsewhere = progress.seconds
        if report is not None:
            tracker.tags({"features/decision": report.decision})
        temperature = fit_temperature(logits, labels_of(data.manifest.of("val")))
        classifier = phase.network.classifier.calibrated(temperature)
        model, batches, of_test = evaluation_inputs(phase, also=[config.unfreeze_depth])
        if of_test is not None:
            tracker.tags({"features/test_decision": of_test.decision})
        device = phase.machine.device
        outcome = evaluate(data.manifest, model, batches, device, temperature)
        metrics = _metrics(phase, result, report, of_test, outcome)
        # First what cannot be had again, then the figures.
        tracker.metrics(metrics)
        _log_points(tracker, result)
        on_val = softmax(logits / temperature, axis=1)
        said = reference(features, on_val, _light(phase.pictures, config.batch_size))
        log_model(tracker, classifier, said, data.manifest)
        write_history(folder, name, result)
        doubted = None
        if frozen is not None:
            doubted = write_label_check(folder, *frozen, classifier, data.manifest)
        trust = write_outcome(
            folder,
            outcome,
            classifier,
            data.manifest,
            phase=name,
            on_val=on_val,
            device=device,
        )
        labels = {} if doubted is None else {"labels/doubted": float(doubted)}
        last = {**labels, **trust, "time/total_seconds": time.perf_counter() - started + elsewhere}
        tracker.metrics(last)
        picture = tracker.artifact_link("gradcam.png") if trust else ""
        tracker.describe(
            of_phase(
                name,
                config,
                data.manifest,
                outcome,
                picture,
                result.best_epoch,
                result.kept[SHARE],
                doubted,
            )
        )
    return PhaseResult(name, tracker.run_id, metrics | last)


def _train(
    phase: Phase, tracker: Tracker, checkpoints: Path, progress: Progress | None
) -> tuple[
    Result,
    Report | None,
    tuple[NDArray[np.float64], NDArray[np.float64]],
    tuple[list[Picture], NDArray[np.float32]] | None,
]:
    """Train, look at the validation pictures, and read the features of a frozen backbone; what was
    mapped of the store, and its copy on a GPU, is let go when this returns."""
    trained = train_phase(
        phase,
        log=tracker.metrics,
        checkpoints=checkpoints,
        also=[phase.config.unfreeze_depth],
        progress=progress,
    )
    return trained.result, trained.report, trained.validation(), trained.frozen()


def _log_points(tracker: Tracker, result: Result) -> None:
    """The points between the weights at the beginning and those of the best epoch; the step is the
    way in percent."""
    for point in result.line:
        values = {"loss": point[CRITERION], "accuracy": point["val/accuracy"]}
        step = round(100 * point[SHARE])
        tracker.metrics({f"interpolation/{name}": v for name, v in values.items()}, step)


def _metrics(
    phase: Phase,
    result: Result,
    report: Report | None,
    of_test: Report | None,
    outcome: Outcome,
) -> dict[str, float]:
    """What is logged once, before the figures."""
    return {
        "val/best_accuracy": result.kept["val/accuracy"],
        "val/best_calibrated_loss": result.kept[CRITERION],
        "val/best_epoch": float(result.best_epoch),
        **({"val/best_interpolation": result.kept[SHARE]} if phase.name == "finetune" else {}),
        **outcome.metrics,
        "parameters/trainable": float(phase.network.parameters(trainable=True)),
        "parameters/total": float(phase.network.parameters(trainable=False)),
        **(report.metrics if report else {"time/prefix_seconds": 0.0}),
        **({"features/test_hits": float(of_test.hits)} if of_test else {}),
        "time/train_seconds": result.seconds,
    }


def _light(pictures: Pictures, batch_size: int) -> NDArray[np.float64]:
    """Brightness and contrast of validation pictures, float64 (m, 2).

    They are decoded once more for it, for the store keeps only what the frozen part made of them;
    hence of at most MOST_LIT, spread evenly over the split, whose classes may follow
    one another.
    """
    count = len(pictures.manifest.of("val"))
    chosen = np.linspace(0, count - 1, min(count, MOST_LIT)).astype(int).tolist()
    batches = [[chosen[i] for i in batch] for batch in plain_batches(len(chosen), batch_size)]
    preprocessing = pictures.views.preprocessing
    plain = replace(pictures, by_threads=True).plain("val", batches)
    return np.concatenate([light(inputs, preprocessing) for inputs, _ in plain])


def _begun_from_head(
    tracker: Tracker, phase: Phase, data: Data, trained: AlreadyTrained | None
) -> Phase:
    config, network, machine = phase.config, phase.network, phase.machine
    if trained is not None and (trained.folder / "head").exists():
        head = trained.run_id
        phase = phase.begun_from(trained.folder / "head" / "best", head)
    else:
        head = config.init_from
        if head != "auto":
            refuse_seen(head, data.manifest)
        else:
            wanted = {
                PHASE_TAG: "head",
                DIGEST_TAG: data.manifest.digest,
                SETTINGS_TAG: head_settings(config, network, machine),
            }
            fitting = (one.run_id for one in finished_runs(tracker.experiment_id, wanted))
            found = next(filter(has_checkpoint, fitting), None)
            print(
                f"finetune: begins from the head of run {found}"
                if found
                else "finetune: no run has the head of these settings, which is trained first",
                file=sys.stderr,
            )
            head = found or run_phase("head", config, data=data, parent=tracker.run_id).run_id
        with best_checkpoint(head) as checkpoint:
            phase = phase.begun_from(checkpoint, head)
    tracker.tags({INIT_TAG: head})
    return phase
