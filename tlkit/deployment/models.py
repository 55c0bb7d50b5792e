"""Models by their address: from a run, from the registry, or from a folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from yaml import YAMLError

from tlkit.errors import UserError, reason
from tlkit.files import expanded
from tlkit.serving.classifier import Classifier
from tlkit.serving.ensemble import Ensemble
from tlkit.tracking.lookup import local_model
from tlkit.tracking.registry import StoredModel, find_model, log_used
from tlkit.tracking.run import Tracker
from tlkit.training.allocator import keep_freed_memory

# Of a run that uses models: which ones, where an alias may mean another one tomorrow.
MODEL_TAG = "tlkit.model"

# What torch and the readers of MLmodel, JSON and safetensors say of files that are damaged.
_DAMAGE = (
    *(AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    *(SafetensorError, YAMLError),
)


def load_models(*addresses: str) -> Ensemble:
    """One model or several, as one whose probabilities are their mean.

    Args:
        addresses: each as `tlkit.tracking.lookup.local_model` takes it.

    Raises:
        UserError: no such model, one that is not ours, or models of different classes.
    """
    keep_freed_memory()  # pictures by the batch follow
    members: list[Classifier] = []
    for address in addresses:
        with opened_model(address) as folder:
            members += Ensemble.load(folder).members
        if members[-1].classes != members[0].classes:
            raise UserError(
                f"model {address} tells {', '.join(members[-1].classes)} apart and the first one "
                f"{', '.join(members[0].classes)}; models of the same classes wanted"
            )
    return Ensemble(tuple(members))


def find_and_log(tracker: Tracker, addresses: Sequence[str]) -> list[StoredModel]:
    """What addresses mean now, logged as what the run uses.

    Raises:
        UserError: as `find_model`; a folder is taken as it is.
    """
    found = [
        # What is neither is told when it is opened.
        StoredModel(address, "", None)
        if expanded(address).is_dir() or ":/" not in address
        else find_model(address)
        for address in addresses
    ]
    log_models(tracker, found)
    return found


def log_models(tracker: Tracker, models: Sequence[StoredModel]) -> None:
    """Log what a run uses: as inputs of it, and in its tag `tlkit.model`."""
    log_used(tracker.run_id, models)
    tracker.tags({MODEL_TAG: ", ".join(model.lasting for model in models)})


def separate(addresses: str) -> list[str]:
    """Addresses of models that stand with commas between them, one by one."""
    return [word.strip() for word in addresses.split(",")]


@contextmanager
def opened_model(address: str) -> Iterator[Path]:
    """The folder of one model's classifiers, to be read while the block lasts.

    Raises:
        UserError: no such model, or one that the block finds not to be ours.
    """
    try:
        with local_model(address) as folder:
            yield folder
    except _DAMAGE as error:
        raise UserError(
            f"model {address} is no model of tlkit, or is damaged ({reason(error)}); give the "
            "model that a run of baseline, head or finetune left: runs:/RUN_ID/model"
        ) from error
