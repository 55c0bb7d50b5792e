"""The assembler: a phase, from its configuration to a logged result."""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tlkit.config import Config
from tlkit.data.audit import AuditReport, audit
from tlkit.data.looks import MAX_BYTES
from tlkit.data.manifest import Manifest
from tlkit.data.samples import samples
from tlkit.data.sources import open_source
from tlkit.environment import environment
from tlkit.errors import UserError
from tlkit.evaluation.calibration import fit_temperature
from tlkit.evaluation.canvas import save
from tlkit.evaluation.samples_figure import samples_figure
from tlkit.features.fill import Report
from tlkit.features.inputs import Pictures
from tlkit.files import cache_folder, disk_faults_told, scratch_folder, write_json
from tlkit.lineage import best_checkpoint, has_checkpoint, refuse_seen
from tlkit.outcome import Outcome, evaluate, labels_of, write_history, write_outcome
from tlkit.phases import (
    PHASES,
    Machine,
    Network,
    begin_from,
    build_network,
    head_settings,
    machine_for,
    open_store,
    pictures_for,
    prepare_phase,
    train_phase,
    training_key,
)
from tlkit.serving.classifier import Classifier, probability_columns
from tlkit.serving.ensemble import Ensemble
from tlkit.serving.light import light
from tlkit.serving.reference import Reference, reference
from tlkit.serving.request_log import unlogged
from tlkit.summary import (
    PhaseResult,
    markdown_table,
    of_audit,
    of_data,
    of_phase,
    of_repeats,
    of_store,
)
from tlkit.tracking.lookup import downloaded, find_run, finished_runs
from tlkit.tracking.run import Tracker, set_status, start_run
from tlkit.tracking.tags import DIGEST_TAG, INIT_TAG, PHASE_TAG, SETTINGS_TAG, WENT_ON_TAG
from tlkit.training.allocator import full_cards_told
from tlkit.training.batches import plain_batches
from tlkit.training.checkpoints import load_result
from tlkit.training.loop import Result
from tlkit.training.progress import Progress, forget, interrupted_trainings, progress_of

PACKAGE = Path(__file__).parent

# In the cache: the file that remembers what audits saw.
LOOKS = "looks.sqlite"
# In the cache: the folder of how far trainings came.
TRAININGS = "trainings"

# Validation pictures whose brightness and contrast the reference holds.
MOST_LIT = 500


@dataclass(frozen=True)
class Data:
    """Pictures that passed the audit, and what the audit found."""

    manifest: Manifest
    report: AuditReport


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


def prepare_data(config: Config) -> Data:
    """Find, audit and split the pictures that the configuration names; say what was found."""
    manifest, report = audit(
        open_source(config.data, cache_folder() / "data", config.pictures_seed),
        seed=config.pictures_seed,
        max_pixels=config.max_pixels,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        workers=machine_for(config).workers,
        looks=cache_folder() / LOOKS,
    )
    print(of_audit(report), file=sys.stderr)
    return thinned(Data(manifest, report), config.train_fraction, config.pictures_seed)


def thinned(data: Data, fraction: float, seed: int) -> Data:
    """With that share of the training pictures; the data digest is that of what is left."""
    return data if fraction == 1 else replace(data, manifest=data.manifest.thinned(fraction, seed))


def data_of(run_ids: Sequence[str]) -> tuple[Config, Data]:
    """The configuration of the first run, and the pictures that all were trained on.

    Raises:
        UserError: runs on different pictures, or pictures that are no longer there.
    """
    digests = {find_run(run_id).tags.get(DIGEST_TAG, "") for run_id in run_ids}
    if len(digests) > 1:
        raise UserError(
            f"the models were trained on {len(digests)} sets of pictures; one set wanted, so that "
            "none was trained on another's test pictures"
        )
    with downloaded(run_ids[0], "config.yaml") as path:
        config = Config.load(path, {})
    data = prepare_data(config)
    if data.manifest.digest not in digests:
        raise UserError(
            f"the pictures of {config.data} are no longer those of run {run_ids[0]}; "
            "train the models again"
        )
    return config, data


def run_data(config: Config) -> Data:
    """Prepare and audit the pictures alone, as a run called `data`."""
    with start_run("data", system_metrics=False) as tracker, _work_folder(tracker) as folder:
        data = prepare_data(config)
        machine = machine_for(config)
        # Only for its preprocessing: looking at the data must not want weights.
        network = build_network("head", replace(config, weights="none"), data.manifest.classes)
        pictures = pictures_for(config, data.manifest, network, machine)
        _log_inputs(tracker, folder, config, data, pictures, machine)
        samples = tracker.artifact_link("data/samples.png")
        tracker.describe(f"{of_data(config, data.manifest)}\n\n![samples]({samples})")
    return data


def run_phase(
    phase: str,
    config: Config,
    *,
    data: Data | None = None,
    parent: str | None = None,
    trained: AlreadyTrained | None = None,
    until: ExitStack | None = None,
) -> PhaseResult:
    """Train, evaluate and log one phase; where the same was interrupted, go on with it.

    Args:
        phase: "baseline", "head" or "finetune".
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
        start_run(phase, parent=parent) as tracker,
        full_cards_told(),
        _work_folder(tracker) as folder,
    ):
        data = data or prepare_data(config)
        machine = machine_for(config)
        network, pictures = prepare_phase(phase, config, data.manifest, machine)
        _log_inputs(tracker, folder, config, data, pictures, machine)
        tracker.tags({SETTINGS_TAG: head_settings(config, network, machine)})
        if phase == "finetune":
            network = _begin_from_head(tracker, config, data, network, machine, trained)
        checkpoints, progress = folder / "checkpoints", None
        if trained is None:
            checkpoints.mkdir()
            key = training_key(phase, config, network, data.manifest, machine)
            progress = stack.enter_context(
                progress_of(scratch_folder() / TRAININGS, key, tracker.run_id)
            )
            elsewhere = 0.0
        else:
            elsewhere = trained.begin(phase, checkpoints)
        result, report, (logits, features) = _train(
            phase, config, network, pictures, machine, tracker, checkpoints, progress
        )
        if progress is not None and progress.interrupted is not None:
            _tell_went_on(tracker, progress.interrupted)
            elsewhere = progress.seconds
        if report is not None:
            tracker.tags({"features/decision": report.decision})
        temperature = fit_temperature(logits, labels_of(data.manifest.of("val")))
        classifier = network.classifier.calibrated(temperature)
        outcome = evaluate(classifier, pictures, config.batch_size, machine.device)
        metrics = _metrics(network, result, report, outcome)
        # First what cannot be had again, then the figures.
        tracker.metrics(metrics)
        lit = _light(pictures, config.batch_size)
        on_val = softmax(logits / temperature, axis=1)
        said = reference(features, on_val, lit)
        log_model(tracker, classifier, said, data.manifest)
        write_history(folder, phase, result.history, result.best_epoch)
        trust = write_outcome(
            folder,
            outcome,
            classifier,
            pictures,
            phase=phase,
            columns=probability_columns(data.manifest.classes),
            on_val=on_val,
            device=machine.device,
        )
        last = {**trust, "time/total_seconds": time.perf_counter() - started + elsewhere}
        tracker.metrics(last)
        picture = tracker.artifact_link("gradcam.png") if trust else ""
        tracker.describe(
            of_phase(phase, config, data.manifest, outcome, picture, result.best_epoch)
        )
    return PhaseResult(phase, tracker.run_id, metrics | last)


def _train(
    phase: str,
    config: Config,
    network: Network,
    pictures: Pictures,
    machine: Machine,
    tracker: Tracker,
    checkpoints: Path,
    progress: Progress | None,
) -> tuple[Result, Report | None, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Train, and look at the validation pictures; what was mapped of the store, and its copy on a
    GPU, is let go when this returns."""
    trained = train_phase(
        phase,
        config,
        network,
        pictures,
        machine,
        log=tracker.metrics,
        checkpoints=checkpoints,
        also=[config.unfreeze_depth],
        progress=progress,
    )
    return trained.result, trained.report, trained.validation()


def _metrics(
    network: Network, result: Result, report: Report | None, outcome: Outcome
) -> dict[str, float]:
    """What is logged once, before the figures."""
    return {
        "val/best_accuracy": result.best["val/accuracy"],
        "val/best_loss": result.best["val/loss"],
        "val/best_epoch": float(result.best_epoch),
        **outcome.metrics,
        "parameters/trainable": float(network.parameters(trainable=True)),
        "parameters/total": float(network.parameters(trainable=False)),
        **(report.metrics if report else {"time/prefix_seconds": 0.0}),
        "time/train_seconds": result.seconds,
    }


def _tell_went_on(tracker: Tracker, interrupted: str) -> None:
    tracker.tags({WENT_ON_TAG: interrupted})
    with suppress(UserError):  # it is in another store, or was deleted
        if find_run(interrupted).status == "RUNNING":  # as `kill -9` leaves it
            set_status(interrupted, "KILLED")


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
    return np.concatenate([light(t, preprocessing) for t, _ in pictures.plain("val", batches)])


def run_repeats(phase: str, config: Config) -> list[PhaseResult]:
    """One phase with `seeds` seeds on the same pictures, as children of one run where it is not 1.

    Each finetune begins from the same head; where the backbone is random, and so another one for
    each seed, from one of its own. Raises as `run_phase`.
    """
    if config.seeds == 1:
        return [run_phase(phase, config)]
    with ExitStack() as until, start_run(f"{phase}-seeds", system_metrics=False) as tracker:
        tracker.params(config.as_dict())
        data = prepare_data(config)
        log_dataset(tracker, config, data)
        base = replace(config, seeds=1, data_seed=config.pictures_seed)
        results: list[PhaseResult] = []
        for seed in range(config.seed, config.seed + config.seeds):
            one = replace(base, seed=seed)
            result = run_phase(phase, one, data=data, parent=tracker.run_id, until=until)
            if phase == "finetune" and config.weights != "none":
                base = replace(base, init_from=find_run(result.run_id).tags[INIT_TAG])
            results.append(replace(result, phase=f"{phase}, seed {seed}"))
        said, metrics = of_repeats(results)
        tracker.metrics(metrics)
        tracker.describe(f"{said}\n\n{of_data(config, data.manifest)}\n\n{markdown_table(results)}")
    return results


def refuse_seeds(config: Config) -> None:
    """Raise UserError for several seeds, where a phase is trained once."""
    if config.seeds > 1:
        raise UserError(
            f"seeds={config.seeds} is for -e baseline, head and finetune; leave it out here"
        )


def run_suite(config: Config) -> list[PhaseResult]:
    """Baseline, head and finetune as children of one run called `suite`."""
    refuse_seeds(config)
    results: list[PhaseResult] = []
    with ExitStack() as until, start_run("suite", system_metrics=False) as tracker:
        tracker.params(config.as_dict())
        data = prepare_data(config)
        log_dataset(tracker, config, data)
        build_network("finetune", config, data.manifest.classes)  # refuses before the baseline
        for phase in PHASES:
            if phase == "finetune":
                config = replace(config, init_from=results[-1].run_id)
            results.append(run_phase(phase, config, data=data, parent=tracker.run_id, until=until))
        for result in results:
            tracker.metrics({f"{result.phase}/test_accuracy": result.metrics["test/accuracy"]})
        tracker.describe(f"{of_data(config, data.manifest)}\n\n{markdown_table(results)}")
    return results


def run_cache(config: Config) -> str:
    """Show what is stored of frozen parts, audits and interrupted trainings, as a run called
    `cache`, and delete it if wanted.

    Returns:
        The listing, and what was freed.
    """
    with start_run("cache", system_metrics=False) as tracker:
        store = open_store(cache_folder() / "features", config.store_gigabytes)
        looks = cache_folder() / LOOKS
        size = looks.stat().st_size if looks.exists() else 0
        begun = interrupted_trainings(cache_folder() / TRAININGS)
        kept = sum(file.stat().st_size for file in begun)
        listing = (
            f"{of_store(store)}\n{size / 1e6:,.1f} MB of at most {MAX_BYTES / 1e6:,.0f} MB on what "
            f"the audit saw in pictures in {looks}\n{kept / 1e6:,.1f} MB on how far trainings "
            f"came, interrupted or under way: {len(begun)} in {cache_folder() / TRAININGS}"
        )
        if config.clear == "yes":
            freed = store.clear()
            with suppress(OSError):  # Windows: in use; or another user's
                looks.unlink(missing_ok=True)
                freed += size
            freed += forget(begun)
            listing += f"\nFreed {freed / 1e6:,.1f} MB."
        tracker.describe(f"```\n{listing}\n```")
    return listing


@contextmanager
def _work_folder(tracker: Tracker) -> Iterator[Path]:
    """A folder whose content becomes the run's artifacts, whether the block ends well or not.

    It lies in the cache, where a killed run's checkpoints stay, and those that could not be logged.
    """
    folder = scratch_folder() / "runs" / tracker.run_id
    with disk_faults_told(folder):
        folder.mkdir(parents=True)
        try:
            yield folder
        except BaseException:
            with suppress(UserError):  # the error under way says more
                _hand_over(folder, tracker)
            raise
        _hand_over(folder, tracker)


def _hand_over(folder: Path, tracker: Tracker) -> None:
    try:
        tracker.artifacts(folder)
    except UserError:
        print(f"what the run made is in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


def log_dataset(tracker: Tracker, config: Config, data: Data) -> None:
    """Log the pictures as the run's data set."""
    tracker.tags({DIGEST_TAG: data.manifest.digest})
    tracker.dataset(config.data, data.manifest.root, data.manifest.digest)


def _log_inputs(
    tracker: Tracker,
    folder: Path,
    config: Config,
    data: Data,
    pictures: Pictures,
    machine: Machine,
) -> None:
    """Log all that is known before training: so that it is there when training fails."""
    tracker.params(config.as_dict())
    log_dataset(tracker, config, data)
    config.write(folder / "config.yaml")
    write_json(folder / "environment.json", environment(machine))
    (folder / "data").mkdir()
    data.manifest.write(folder / "data" / "manifest.csv")
    (folder / "data" / "audit.json").write_text(data.report.to_json(), encoding="utf-8")
    views = pictures.views
    shown = samples(data.manifest, views.preprocessing.picture, views.picture, config.max_pixels)
    figure = samples_figure(shown, len(data.manifest.classes))
    save(figure, folder / "data" / "samples.png")
    tracker.artifacts(folder)


def _begin_from_head(
    tracker: Tracker,
    config: Config,
    data: Data,
    network: Network,
    machine: Machine,
    trained: AlreadyTrained | None,
) -> Network:
    if trained is not None and (trained.folder / "head").exists():
        head = trained.run_id
        network = begin_from(network, trained.folder / "head" / "best", head)
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
            head = (
                next(filter(has_checkpoint, fitting), None)
                or run_phase("head", config, data=data, parent=tracker.run_id).run_id
            )
        with best_checkpoint(head) as checkpoint:
            network = begin_from(network, checkpoint, head)
    tracker.tags({INIT_TAG: head})
    return network


def log_model(
    tracker: Tracker, model: Classifier | Ensemble, said: Reference, manifest: Manifest
) -> None:
    """Log the model with its reference, and a test picture as an example of a request."""
    example = (manifest.root / manifest.of("test")[0].path).read_bytes()
    columns = probability_columns(manifest.classes)
    with tempfile.TemporaryDirectory(prefix="tlkit-") as folder:
        model.save(Path(folder))
        said.save(Path(folder))
        code = PACKAGE / "serving" / "pyfunc.py"
        with unlogged():
            tracker.model({"classifier": Path(folder)}, code, PACKAGE, columns, {"image": example})
