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


@dataclass(frozen=True)
class PromoteSettings(Settings):
    """Of `-e promote`."""

    name: str = required("the name in the model registry", "a name")
    candidate: str = key(
        "none", "the model that may become champion: runs:/RUN_ID/model or models:/NAME/VERSION"
    )
    confidence: float = key(
        0.95,
        "with which the candidate must not be worse than the champion",
        "from 0.5 up to, not including, 1",
        lambda value: 0.5 <= value < 1,
    )
    rollback: bool = key(False, "true: the champion before this one is champion again")

    def contradictions(self) -> list[str]:
        if self.rollback == (self.candidate == "none"):
            return []
        if self.rollback:
            return [f"candidate={self.candidate} and rollback=true: give one of them"]
        return ["candidate is not given; -P candidate=runs:/RUN_ID/model, or -P rollback=true"]
