"""Log a router: two models behind one address, for an A/B test."""

import json
import shutil
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image

from tlkit.deployment.models import load_models
from tlkit.deployment.settings import RouteSettings
from tlkit.files import PACKAGE
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
        UserError: no such model, or models of different classes.
    """
    addresses = {"champion": settings.champion, "challenger": settings.challenger}
    classes = load_models(",".join(addresses.values())).classes
    with (
        start_run("route") as tracker,
        tempfile.TemporaryDirectory(prefix="tlkit-") as name,
    ):
        tracker.params(settings.as_dict())
        folder = Path(name)
        file = folder / "router.json"
        file.write_text(json.dumps({"share": settings.share, "salt": settings.salt}) + "\n")
        for role, address in addresses.items():
            with local_model(address) as model:  # two folders may be called alike
                shutil.copytree(model, folder / role)
        with unlogged():
            tracker.model(
                {role: folder / role for role in addresses} | {"router": file},
                PACKAGE / "serving" / "router.py",
                ["served_by", *probability_columns(classes)],
                {"image": _grey_picture(), "key": "a user"},
            )
        address = f"runs:/{tracker.run_id}/model"
        if settings.register != "none":
            version = register_model(tracker.run_id, settings.register)
            address = f"models:/{settings.register}/{version}"
        said = (
            f"{settings.share:.0%} of the keys go to the challenger. Serve it with\n"
            f"mlflow models serve -m {address} --env-manager local -p 5001"
        )
        models_said = f"Champion `{settings.champion}`, challenger `{settings.challenger}`."
        tracker.describe(f"{models_said} {said}")
    return said


def _grey_picture() -> bytes:
    """An example of a request needs a picture, and any will do."""
    content = BytesIO()
    Image.new("RGB", (64, 64), "grey").save(content, "PNG")
    return content.getvalue()
