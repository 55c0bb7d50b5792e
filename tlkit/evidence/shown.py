"""Which test pictures a report shows, and what each model sees in them."""

import base64
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tlkit.data.images import read_picture
from tlkit.data.manifest import Manifest
from tlkit.evaluation.tiles import mistake_indices, overlay
from tlkit.evidence.gathered import Gathered
from tlkit.heat_maps import NoHeatMaps, heat_maps
from tlkit.serving.classifier import Classifier
from tlkit.serving.ensemble import Ensemble

MISTAKES = 6
_SIDE = 224
RULE = (
    "First pictures that some models got right and others wrong, up to half of those shown, then "
    "pictures that all got wrong, up to a quarter, each in falling confidence of a wrong model; "
    "the rest are pictures that all got right, class by class in turn, in falling mean confidence."
)


@dataclass(frozen=True)
class Answer:
    """What a model said of a picture.

    Attributes:
        picture: data URI of what is shown.
        confidence: probability of the predicted class, 0..1.
    """

    model: str
    picture: str
    predicted: str
    confidence: float
    right: bool


@dataclass(frozen=True)
class Shown:
    """A test picture and the answers of all models, the evidence for each over the picture."""

    path: str
    true: str
    picture: str
    answers: tuple[Answer, ...]


def show_side_by_side(
    runs: Sequence[Gathered],
    models: Sequence[Ensemble],
    manifest: Manifest,
    count: int,
    max_pixels: int,
) -> list[Shown]:
    """Up to `count` test pictures, chosen by RULE, with every model's Grad-CAM.

    Of an ensemble its first member's is shown; of a network without heat maps the picture, which is
    told once on standard error. `max_pixels` is what the audit let pass.
    """
    shown = []
    told: set[str] = set()

    def evidence(model: Ensemble, image: Image.Image, predicted: np.int64) -> str:
        try:
            return _evidence(model.members[0], image, predicted)
        except NoHeatMaps as error:
            if str(error) not in told:
                print(error, file=sys.stderr)
            told.add(str(error))
            return data_uri(model.members[0].preprocessing.picture(image).resize((_SIDE, _SIDE)))

    for place in choose_pictures(runs, count):
        image = read_picture(manifest.root / runs[0].paths[place], max_pixels)
        answers = tuple(
            _answer(one, place, manifest, evidence(model, image, one.predicted[place]))
            for one, model in zip(runs, models, strict=True)
        )
        plain = models[-1].members[0].preprocessing.picture(image)
        true = manifest.classes[runs[0].labels[place]]
        shown.append(Shown(runs[0].paths[place], true, data_uri(plain), answers))
    return shown


def choose_pictures(runs: Sequence[Gathered], count: int) -> list[int]:
    """Places of at most `count` test pictures by RULE; equals by place."""
    right = np.stack([one.right for one in runs])
    confidence = np.stack([one.probabilities.max(axis=1) for one in runs])
    surest_wrong = np.where(right, -1.0, confidence).max(axis=0)
    none: NDArray[np.bool_] = ~np.any(right, axis=0)
    all_of_them: NDArray[np.bool_] = np.all(right, axis=0)
    split = _falling(surest_wrong, ~none & ~all_of_them)
    chosen = split[: count // 2]
    chosen += _falling(surest_wrong, none)[: count // 4]
    agreed = _falling(confidence.mean(axis=0), all_of_them)
    chosen += _in_turn(agreed, runs[0].labels)[: count - len(chosen)]
    # Where too few are right everywhere, more of the disputed ones take their places.
    return (chosen + [place for place in split if place not in chosen])[:count]


def _falling(values: NDArray[np.float64], wanted: NDArray[np.bool_]) -> list[int]:
    places = np.flatnonzero(wanted)
    return [int(place) for place in places[np.argsort(-values[places], kind="stable")]]


def _in_turn(places: Sequence[int], labels: NDArray[np.int64]) -> list[int]:
    """The same places, one of each class after another."""
    rank: dict[int, int] = {}
    seen: dict[int, int] = {}
    for place in places:
        label = int(labels[place])
        rank[place] = seen.get(label, 0)
        seen[label] = rank[place] + 1
    return sorted(places, key=lambda place: rank[place])


def show_mistakes(
    runs: Sequence[Gathered], manifest: Manifest, max_pixels: int
) -> dict[str, list[Shown]]:
    """By model, its most confident mistakes; `max_pixels` is what the audit let pass."""
    found: dict[str, list[Shown]] = {}
    for one in runs:
        found[one.name] = []
        for place in mistake_indices(one.probabilities, one.labels, MISTAKES):
            image = read_picture(manifest.root / one.paths[place], max_pixels)
            image.thumbnail((_SIDE, _SIDE))
            answer = _answer(one, place, manifest, "")
            true = manifest.classes[one.labels[place]]
            found[one.name].append(Shown(one.paths[place], true, data_uri(image), (answer,)))
    return found


def _answer(one: Gathered, place: int, manifest: Manifest, picture: str) -> Answer:
    return Answer(
        model=one.name,
        picture=picture,
        predicted=manifest.classes[one.predicted[place]],
        confidence=float(one.probabilities[place].max()),
        right=bool(one.right[place]),
    )


def _evidence(classifier: Classifier, image: Image.Image, predicted: np.int64) -> str:
    seen = classifier.preprocessing.picture(image)
    inputs = classifier.preprocessing.tensor(seen)[None]
    heat = heat_maps(classifier.model, inputs, torch.tensor([int(predicted)]))[0].numpy()
    return data_uri(Image.fromarray(overlay(np.asarray(seen), heat)).resize((_SIDE, _SIDE)))


def data_uri(picture: Image.Image) -> str:
    """The picture as a JPEG within an address."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
