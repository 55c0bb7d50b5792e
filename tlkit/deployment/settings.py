"""The keys of the entry points that use a trained model, each also a `-P key=value`."""

from dataclasses import dataclass

from tlkit.keys import Settings, at_least, auto_or, key, required, share

_MODEL = "runs:/RUN_ID/model, models:/NAME@ALIAS, models:/NAME/VERSION or a folder"


@dataclass(frozen=True)
class PredictSettings(Settings):
    """Of `-e predict`."""

    model: str = required("the model, or several with commas between them: their mean", _MODEL)
    images: str = required(
        "what to classify", "a picture, a folder, a pattern such as 'a/*.jpg', a zip or a tar"
    )
    output: str = key(
        "none", "a folder that the files are written to as well; none: only to the run"
    )
    tta: int = at_least(1, 1, "views of each picture that are averaged; 1: the picture as it is")
    abstain: float = share(0.0, "confidence below which no class is named")
    gradcam: bool = key(False, "true: an overlay for each picture, and a sheet of the first ones")
    workers: int | str = auto_or("auto", 1, "threads that decode; auto: one a core")
