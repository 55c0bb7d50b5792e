"""The pictures alone, looked at."""

from dataclasses import replace

from tlkit.config import Config
from tlkit.phases.machine import machine_for
from tlkit.phases.network import build_network, refuse_network
from tlkit.phases.prepare import pictures_for
from tlkit.runs.artifacts import log_inputs, work_folder
from tlkit.runs.prepare import Data, prepare_data
from tlkit.summary import of_data
from tlkit.tracking.run import start_run


def run_data(config: Config) -> Data:
    """Prepare and audit the pictures alone, as a run called `data`."""
    with start_run("data") as tracker, work_folder(tracker) as folder:
        tracker.params(config.as_dict())
        # A network is wanted only for its preprocessing: looking at the data must not want weights.
        weightless = replace(config, weights="none")
        refuse_network("head", weightless)
        data = prepare_data(config)
        machine = machine_for(config)
        network = build_network("head", weightless, data.manifest.classes)
        pictures = pictures_for(config, data.manifest, network, machine)
        log_inputs(tracker, folder, config, data, pictures, machine)
        samples = tracker.artifact_link("data/samples.png")
        tracker.describe(f"{of_data(config, data.manifest)}\n\n![samples]({samples})")
    return data
