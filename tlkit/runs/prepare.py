"""The pictures of a run, found, audited and split."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tlkit.config import Config
from tlkit.data.audit import AuditReport, audit
from tlkit.data.groups import with_groups
from tlkit.data.manifest import Manifest
from tlkit.data.sources import open_source
from tlkit.errors import UserError
from tlkit.files import cache_folder
from tlkit.phases.machine import machine_for
from tlkit.summary import of_audit
from tlkit.tracking.lookup import LoggedRun, downloaded, find_run
from tlkit.tracking.run import Tracker
from tlkit.tracking.tags import DIGEST_TAG

# In the cache: the file that remembers what audits saw.
LOOKS = "looks.sqlite"


@dataclass(frozen=True)
class Data:
    """Pictures that passed the audit, and what the audit found."""

    manifest: Manifest
    report: AuditReport


def prepare_data(config: Config) -> Data:
    """Find, audit and split the pictures that the configuration names; say what was found."""
    source = open_source(
        config.data,
        cache_folder() / "data",
        config.pictures_seed,
        grouped=config.groups not in ("auto", "none"),
    )
    manifest, report = audit(
        with_groups(source, config.groups),
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
    one_of: dict[str, LoggedRun] = {}  # of each digest the first run
    for run in map(find_run, run_ids):
        one_of.setdefault(run.tags.get(DIGEST_TAG, ""), run)
    if len(one_of) > 1:
        sets = "; ".join(
            f"run {run.run_id} on {run.params.get('data')}, digest {digest}"
            for digest, run in one_of.items()
        )
        raise UserError(
            f"the models were trained on {len(one_of)} sets of pictures ({sets}); one set wanted, "
            "with the same splits and groups, so that none was trained on another's test pictures"
        )
    with downloaded(run_ids[0], "config.yaml") as path:
        config = Config.load(path, {})
    try:
        data = prepare_data(config)
    except UserError as error:
        raise UserError(
            f"the pictures of run {run_ids[0]} are needed where it found them, {config.data}: "
            f"{error}",
            error.artifacts,
        ) from error
    if data.manifest.digest not in one_of:
        raise UserError(
            f"the pictures of {config.data} are no longer those of run {run_ids[0]}; "
            "train the models again"
        )
    return config, data


def log_dataset(tracker: Tracker, config: Config, data: Data) -> None:
    """Log the pictures as the run's data set."""
    tracker.tags({DIGEST_TAG: data.manifest.digest})
    tracker.dataset(config.data, data.manifest.root, data.manifest.digest)
