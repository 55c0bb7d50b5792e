"""What a served model logs of a picture that it was asked about."""

from collections.abc import Sequence
from dataclasses import dataclass

# Characters of a router's key.
MAX_KEY = 255


@dataclass(frozen=True)
class Entry:
    """One picture of a request.

    Attributes:
        time: seconds since 1970, when the request came.
        seconds: from then to its answer, the whole request's.
        predicted: index of the class.
        embedding: as `Reference.project` gives it; empty where there is no reference.
        served_by: which of a router's models answered.
        key: of the request, for a router.
        share: of the requests that the challenger is to get, for a router.
        picture: its bytes, where they are to be logged.
        brightness: mean of the luma that the network sees, 0..1.
        contrast: its standard deviation.
        model: which one answered, as `identity` names it; None where it has no reference.
    """

    time: float
    seconds: float
    predicted: int
    class_name: str
    confidence: float
    embedding: Sequence[float]
    brightness: float
    contrast: float
    served_by: str | None = None
    key: str | None = None
    share: float | None = None
    picture: bytes | None = None
    model: str | None = None
