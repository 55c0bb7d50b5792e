"""`tune`: trials until there are enough, then the best of them for good."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna
from optuna.study import Study

from tlkit.config import Config
from tlkit.data.manifest import Manifest
from tlkit.errors import UserError, one_line
from tlkit.lineage import best_checkpoint, refuse_seen
from tlkit.phases.network import refuse_network
from tlkit.runs.prepare import Data, log_dataset, prepare_data
from tlkit.runs.suite import refuse_seeds
from tlkit.search import study as studies
from tlkit.search.conclude import Conclusion, conclude
from tlkit.search.space import Space
from tlkit.search.storage import Busy, locks, open_storage, sqlite_file, storage_faults_told
from tlkit.search.worker import Search, settle_runs, work
from tlkit.tracking.run import Tracker, ended_by, join, set_status, start_run
from tlkit.tracking.store import store_file, store_folder
from tlkit.training.seeding import available_cores


def run_tune(config: Config) -> Conclusion | None:
    """Search, or go on with a search that was interrupted, and train the best configuration.

    Returns:
        What the search ends with; None where another process is busy with the end of it.

    Raises:
        UserError: the space, the storage, the data or the machine do not allow it, or no trial
            is complete.
    """
    refuse_seeds(config)
    config = _share_cores(config)
    space = Space.of(config)
    address = _address(config)
    lock = locks(address)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # we tell what fails, in a line
    deadline = time.monotonic() + (config.timeout or float("inf"))
    with start_run("tune") as own, contextlib.ExitStack() as stack:
        own.params(config.as_dict())
        refuse_network("finetune", config)
        data = prepare_data(config)
        head = None
        if config.init_from != "auto":
            refuse_seen(config.init_from, data.manifest)
            head = stack.enter_context(best_checkpoint(config.init_from))
        with storage_faults_told(address), lock("turn"):
            study = studies.open_study(open_storage(address), space, data.manifest.digest)
            parent = _parent(study, own, config, data)
        search = Search(space, study, lock, data.manifest, parent, head)
        print(_greeting(study, config), file=sys.stderr)
        try:
            with _ended_truly(own, parent, study), storage_faults_told(address):
                settle_runs(study, parent)
                with _other_workers(search, address, deadline):
                    work(search, deadline)
                return _conclude(search, data, own)
        except Busy:
            return None


def _conclude(search: Search, data: Data, own: Tracker) -> Conclusion:
    """Conclude until no trial has ended meanwhile that nobody else will conclude with.

    Raises:
        Busy: another process is at it; it will look for our trials when it has let go of the lock.
    """
    study = search.study
    while True:
        before = studies.ended(study)
        with search.lock(f"end of {study.study_name}", wait=False):
            conclusion = conclude(search, data, own)
        # Asked after the lock is free: whoever was refused until now ended its trials before, and
        # whoever has one under way will find the lock free.
        if studies.ended(study) == before or studies.is_running(study):
            return conclusion


def _share_cores(config: Config) -> Config:
    """Several workers get a part of the cores each, and the configuration says so: it is part of
    what makes a trial repeatable."""
    if config.workers == 1:
        return config
    share = max(1, available_cores() // config.workers)
    return replace(
        config,
        threads=share if config.threads == "auto" else config.threads,
        loader_workers=share if config.loader_workers == "auto" else config.loader_workers,
    )


def _address(config: Config) -> str:
    address = config.storage
    if address == "auto":
        folder = store_folder()
        folder.mkdir(parents=True, exist_ok=True)
        address = f"sqlite:///{folder / 'optuna.db'}"
    ours, mlflows = sqlite_file(address), store_file()
    if ours is not None and mlflows is not None and ours.resolve() == mlflows.resolve():
        raise UserError(
            f"storage={config.storage} is {ours}, MLflow's own database; both keep the version of "
            "their tables in one place, so give Optuna another file: -P storage=sqlite:///FILE"
        )
    return address


def _parent(study: Study, own: Tracker, config: Config, data: Data) -> Tracker:
    """The run that the study is logged under: ours, if we began the study."""
    if studies.PARENT in study.user_attrs:
        return join(own, study.user_attrs[studies.PARENT])
    log_dataset(own, config, data)
    study.set_user_attr(studies.PARENT, own.run_id)
    return own


@contextlib.contextmanager
def _ended_truly(own: Tracker, parent: Tracker, study: Study) -> Iterator[None]:
    """Give a parent that another command began the status that this one ends with."""
    try:
        yield
    except Busy:  # who holds the lock will say how it ended
        raise
    except BaseException as error:
        elsewhere = isinstance(error, KeyboardInterrupt) and studies.is_running(study)
        if parent.run_id != own.run_id and not elsewhere:
            status, said = ended_by(error)
            parent.describe(said)
            set_status(parent.run_id, status)
        raise
    if parent.run_id != own.run_id:
        set_status(parent.run_id, "FINISHED")


def _greeting(study: Study, config: Config) -> str:
    counts = studies.counts(study)
    return f"study {study.study_name}: {studies.made(counts)} of {config.trials} trials made"


@contextlib.contextmanager
def _other_workers(search: Search, address: str, deadline: float) -> Iterator[None]:
    """Processes beside this one that take trials too, for as long as the block lasts."""
    context = multiprocessing.get_context("spawn")
    others: list[BaseProcess] = [
        context.Process(
            target=_work_beside,
            args=(search.config, address, search.study.study_name, search.manifest, search.parent,
                  search.head, deadline),
        )
        for _ in range(search.config.workers - 1)
    ]  # fmt: skip
    for process in others:
        process.start()
    try:
        yield
    except BaseException:
        for process in others:
            process.terminate()
        raise
    finally:
        for process in others:
            process.join()
    for process in others:
        if process.exitcode:
            print(
                f"warning: a worker ended with exit code {process.exitcode}; "
                "its trials went to the others",
                file=sys.stderr,
            )


class _Quiet(io.TextIOWrapper):
    """Standard error that is no terminal: one progress bar is enough."""

    def isatty(self) -> bool:
        return False


def _work_beside(
    config: Config,
    address: str,
    name: str,
    manifest: Manifest,
    parent: Tracker,
    head: Path | None,
    deadline: float,
) -> None:
    # Ctrl-C reaches every process of a terminal; the first one passes it on, once.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.stderr = _Quiet(os.fdopen(os.dup(2), "wb"), line_buffering=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # we tell what fails, in a line
    lock = locks(address)
    try:
        with storage_faults_told(address):
            with lock("turn"):
                study = optuna.load_study(
                    study_name=name, storage=open_storage(address), pruner=studies.pruner(config)
                )
            work(Search(Space.of(config), study, lock, manifest, parent, head), deadline)
    except KeyboardInterrupt:
        pass
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
