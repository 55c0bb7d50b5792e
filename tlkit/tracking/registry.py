"""Models by name, in MLflow's registry."""

from dataclasses import dataclass

import mlflow
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from tlkit.errors import UserError
from tlkit.tracking.faults import NO_SUCH, or_none, reason_of, shown_address, store_faults_told


def register_model(run_id: str, name: str) -> str:
    """Give the model of a run a name in the registry; returns its version, the one it has if it
    was registered before.

    Raises:
        UserError: the registry fails.
    """
    of_run = f"name = '{name}' and run_id = '{run_id}'"
    with store_faults_told():
        known = mlflow.search_model_versions(filter_string=of_run)
        found = known[0] if known else mlflow.register_model(_logged_model(run_id), name)
    return str(found.version)


def _logged_model(run_id: str) -> str:
    """The address of the model `model` of a run: by its id, where it has one, for by the run MLflow
    warns that it does not lie among the run's artifacts."""
    client = mlflow.MlflowClient()
    outputs = client.get_run(run_id).outputs
    for logged in reversed(outputs.model_outputs if outputs else []):
        if client.get_logged_model(logged.model_id).name == "model":
            return f"models:/{logged.model_id}"
    return f"runs:/{run_id}/model"


def run_of_model(address: str) -> str:
    """The id of the run that left a model.

    Args:
        address: runs:/RUN_ID/model, models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-ID.

    Raises:
        UserError: no such model, or an address that names no run.
    """
    kind, _, rest = address.partition(":/")
    if kind == "runs":
        return rest.split("/")[0]
    logged = rest.startswith("m-") and not {"@", "/"} & set(rest)
    if kind != "models" or not (logged or "@" in rest or "/" in rest):
        raise UserError(
            f"{address} names no run's model; runs:/RUN_ID/model, models:/NAME@ALIAS, "
            "models:/NAME/VERSION or models:/m-ID wanted"
        )
    client = mlflow.MlflowClient()
    try:
        if logged:
            return str(client.get_logged_model(rest).source_run_id)
        if "@" in rest:
            name, _, alias = rest.partition("@")
            return str(client.get_model_version_by_alias(name, alias).run_id)
        name, _, version = rest.partition("/")
        return str(client.get_model_version(name, version).run_id)
    except MlflowException as error:
        raise UserError(f"{address} is not at {shown_address()}: {reason_of(error)}") from None


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
