"""Log a router: two models behind one address, for an A/B test."""

import hashlib
import shutil
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from tlkit.deployment.models import find_and_log, load_models
from tlkit.deployment.settings import RouteSettings
from tlkit.errors import UserError
from tlkit.files import PACKAGE, write_json
from tlkit.serving.classifier import probability_columns
from tlkit.serving.request_log import unlogged
from tlkit.tracking.lookup import local_model
from tlkit.tracking.registry import register_model
from tlkit.tracking.run import start_run


def run_route(settings: RouteSettings) -> str:
    """Log the router as the model of a run called `route`.

    Returns:
        How to serve it.

    Raises:
        UserError: no such model, models of different classes, or one model in both places.
    """
    with (
        start_run("route") as tracker,
        tempfile.TemporaryDirectory(prefix="tlkit-") as name,
    ):
        tracker.params(settings.as_dict())
        both = find_and_log(tracker, [settings.champion, settings.challenger])
        classes = load_models(*(model.address for model in both)).classes
        roles = dict(zip(("champion", "challenger"), both, strict=True))
        folder = Path(name)
        file = folder / "router.json"
        names = {role: model.lasting for role, model in roles.items()}
        write_json(file, {"share": settings.share, "salt": settings.salt, **names})
        for role, given in roles.items():
            with local_model(given.address) as model:  # two folders may be called alike
                shutil.copytree(model, folder / role)
        if _content(folder / "champion") == _content(folder / "challenger"):
            raise UserError(
                f"champion={settings.champion} and challenger={settings.challenger} are the same "
                "model; two wanted"
            )
        with unlogged():
            tracker.model(
                {role: folder / role for role in roles} | {"router": file},
                PACKAGE / "serving" / "router.py",
                ["served_by", *probability_columns(classes)],
                {"image": _grey_picture(), "key": "a user"},
            )
        address = f"runs:/{tracker.run_id}/model"
        if settings.register != "none":
            version = register_model(tracker.run_id, settings.register)
            address = f"models:/{settings.register}/{version}"
        said = (
            f"{100 * settings.share:g}% of the keys go to the challenger. Serve it with\n"
            f"mlflow models serve -m {address} --env-manager local -p 5001"
        )
        models_said = (
            f"Champion `{settings.champion}` ({names['champion']}), challenger "
            f"`{settings.challenger}` ({names['challenger']})."
        )
        tracker.describe(f"{models_said} {said}")
    return said


def _content(model: Path) -> dict[str, str]:
    """The sha256 of each file."""
    found = {}
    for path in filter(Path.is_file, model.rglob("*")):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        found[path.relative_to(model).as_posix()] = digest.hexdigest()
    return found


def _grey_picture() -> bytes:
    """An example of a request needs a picture, and any will do."""
    content = BytesIO()
    Image.new("RGB", (64, 64), "grey").save(content, "PNG")
    return content.getvalue()
