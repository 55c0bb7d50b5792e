"""What a run of a model leaves besides its results."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.data.samples import samples
from tlkit.environment import environment
from tlkit.errors import UserError
from tlkit.evaluation.canvas import save
from tlkit.evaluation.samples_figure import samples_figure
from tlkit.features.inputs import Pictures
from tlkit.files import PACKAGE, disk_faults_told, scratch_folder, write_json
from tlkit.phases.machine import Machine
from tlkit.runs.prepare import Data, log_dataset
from tlkit.serving.classifier import Classifier, probability_columns
from tlkit.serving.ensemble import Ensemble
from tlkit.serving.reference import Reference
from tlkit.serving.request_log import unlogged
from tlkit.tracking.run import Tracker


@contextmanager
def work_folder(tracker: Tracker) -> Iterator[Path]:
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


def log_inputs(
    tracker: Tracker,
    folder: Path,
    config: Config,
    data: Data,
    pictures: Pictures,
    machine: Machine,
) -> None:
    """Log all that is known before training: so that it is there when training fails."""
    log_dataset(tracker, config, data)
    config.write(folder / "config.yaml")
    write_json(folder / "environment.json", environment(machine))
    (folder / "data").mkdir()
    data.manifest.write(folder / "data" / "manifest.csv")
    (folder / "data" / "audit.json").write_text(data.report.to_json(), encoding="utf-8")
    views = pictures.views
    shown = samples(
        data.manifest,
        views.preprocessing.picture,
        views.picture,
        views=0 if config.augment == "none" else config.views,
        max_pixels=config.max_pixels,
    )
    figure = samples_figure(shown, len(data.manifest.classes))
    save(figure, folder / "data" / "samples.png")
    tracker.artifacts(folder)


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
            tracker.model({"classifier": Path(folder)}, code, columns, {"image": example})
