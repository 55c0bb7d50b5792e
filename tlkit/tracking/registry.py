"""Models by name, in MLflow's registry."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlflow
from mlflow.entities import LoggedModelInput
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import get_model_name_and_version

from tlkit.errors import UserError
from tlkit.tracking.faults import (
    NO_ID,
    NO_SUCH,
    or_none,
    reason_of,
    shown_address,
    store_faults_told,
)


def register_model(run_id: str, name: str) -> str:
    """Give the model of a run a name in the registry; returns its version, the one it has if it
    was registered before.

    Raises:
        UserError: the registry fails.
    """
    of_run = f"name = '{name}' and run_id = '{run_id}'"
    with store_faults_told():
        known = mlflow.search_model_versions(filter_string=of_run)
        # By its id, where it has one: by its run MLflow warns that it is not among the artifacts.
        found = known[0] if known else mlflow.register_model(_of_run(run_id).lasting, name)
    return str(found.version)


@dataclass(frozen=True)
class StoredModel:
    """A model that MLflow has, or one in a folder, by an address that goes on to mean this one.

    Attributes:
        address: as given and whole, with the version in the place of an alias.
        run_id: of the run that left it; "" for a folder.
        model_id: of MLflow's logged model; None where it has none.
    """

    address: str
    run_id: str
    model_id: str | None

    @property
    def lasting(self) -> str:
        """The address that means this model wherever else it is registered."""
        return f"models:/{self.model_id}" if self.model_id else self.address


def find_model(address: str) -> StoredModel:
    """What an address means now.

    Args:
        address: runs:/RUN_ID/model, runs:/RUN_ID for the same, models:/NAME@ALIAS,
            models:/NAME/VERSION or models:/m-ID.

    Raises:
        UserError: no such model, or an address that names no run's model. Whether a run has one is
            not looked at.
    """
    kind, _, rest = address.partition(":/")
    run_id = rest.partition("/")[0]
    if kind == "runs" and run_id and rest in (run_id, f"{run_id}/model"):
        return _of_run(run_id)
    if kind != "models" or not (rest.startswith("m-") or {"@", "/"} & set(rest)):
        raise UserError(
            f"{address} names no run's model; runs:/RUN_ID/model, models:/NAME@ALIAS, "
            "models:/NAME/VERSION or models:/m-ID wanted"
        )
    client = mlflow.MlflowClient()
    try:
        named = get_model_name_and_version(client, address)  # type: ignore[no-untyped-call]
        if len(named) == 1:
            left_by = client.get_logged_model(named[0]).source_run_id
            return StoredModel(address, str(left_by), named[0])
        found = client.get_model_version(*named)
        # MLflow 3.17 keeps no id with a version in a database.
        model_id = found.model_id or _model_of(str(found.run_id))
        return StoredModel("models:/{}/{}".format(*named), str(found.run_id), model_id)
    except MlflowException as error:
        raise UserError(f"{address} is not at {shown_address()}: {reason_of(error)}") from None


def _of_run(run_id: str) -> StoredModel:
    return StoredModel(f"runs:/{run_id}/model", run_id, _model_of(run_id))


def _model_of(run_id: str) -> str | None:
    found = or_none(lambda: mlflow.get_run(run_id), NO_SUCH, NO_ID)
    left = found.outputs.model_outputs if found and found.outputs else []
    return str(left[0].model_id) if len(left) == 1 else None


def log_used(run_id: str, models: Sequence[StoredModel]) -> None:
    """Log models as inputs of a run, as far as MLflow has an id for them."""
    ids = dict.fromkeys(model.model_id for model in models if model.model_id)
    if ids:
        mlflow.MlflowClient().log_inputs(run_id, models=[LoggedModelInput(one) for one in ids])


@dataclass(frozen=True)
class Registered:
    """A name in the model registry and the versions that its aliases stand for."""

    name: str

    def version(self, alias: str) -> str | None:
        """The version that carries an alias, if one does."""
        found = self._known()
        return str(found.aliases[alias]) if found and alias in found.aliases else None

    def has(self, version: str) -> bool:
        """Whether a version is there, and was not deleted."""
        client = mlflow.MlflowClient()
        return or_none(lambda: client.get_model_version(self.name, version), NO_SUCH) is not None

    def set_alias(self, alias: str, version: str) -> None:
        """Let an alias stand for a version, and for no other."""
        mlflow.MlflowClient().set_registered_model_alias(self.name, alias, version)

    def drop_alias(self, alias: str) -> None:
        """Let an alias stand for nothing."""
        mlflow.MlflowClient().delete_registered_model_alias(self.name, alias)

    def tag(self, key: str) -> str | None:
        """A tag of the name."""
        found = self._known()
        return str(found.tags[key]) if found and key in found.tags else None

    def set_tag(self, key: str, value: str, version: str | None = None) -> None:
        """Tag the name, or one of its versions."""
        client = mlflow.MlflowClient()
        if version is None:
            client.set_registered_model_tag(self.name, key, value)
        else:
            client.set_model_version_tag(self.name, version, key, value)

    def _known(self) -> RegisteredModel | None:
        client = mlflow.MlflowClient()
        return or_none(lambda: client.get_registered_model(self.name), NO_SUCH)
