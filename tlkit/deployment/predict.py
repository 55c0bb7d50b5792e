"""Classify pictures, write what was found, and log it as a run called `predict`."""

import csv
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from tlkit.data.given import Given, find_pictures
from tlkit.data.groups import with_groups
from tlkit.data.images import read_picture
from tlkit.data.sources import Source
from tlkit.deployment.models import find_and_log, load_models, separate
from tlkit.deployment.settings import PredictSettings
from tlkit.deployment.tally import Tally, counted
from tlkit.errors import UserError, printable_line
from tlkit.evaluation.canvas import save
from tlkit.evaluation.figures import confusion_matrix
from tlkit.evaluation.tiles import Tile, gradcam_sheet, overlay
from tlkit.files import cache_folder, disk_faults_told, output_folder, short_stem, utf8
from tlkit.heat_maps import heat_maps
from tlkit.lineage import learned_from
from tlkit.serving.classifier import Classifier, probability_columns
from tlkit.serving.ensemble import NO_VIEWS, Ensemble
from tlkit.serving.stream import Prediction, classify_files
from tlkit.tracking.registry import StoredModel
from tlkit.tracking.run import start_run
from tlkit.training.seeding import available_cores

# Pictures on the sheet of overlays.
SHEET = 24

Write = Callable[[str, str | None, Prediction], None]


def run_predict(settings: PredictSettings) -> str:
    """Classify what `settings.images` names.

    Returns:
        A table of the first pictures, the unreadable ones, and where the files are.

    Raises:
        UserError: no such model or pictures, models of different classes, views of a model that
            was trained without, an output folder that is not empty, or nothing that could be
            classified, once that is logged.
    """
    given = find_pictures(settings.images, cache_folder() / "data")
    output = output_folder(settings.output)
    with start_run("predict") as tracker:
        tracker.params(settings.as_dict())
        models = find_and_log(tracker, separate(settings.model))
        ensemble = load_models(*(model.address for model in models))
        if settings.tta > 1 and not ensemble.has_views:
            raise UserError(f"tta={settings.tta}; {NO_VIEWS}")
        with tracker.folder() as folder:
            tally = _classify(folder, ensemble, given, models, settings)
            if tally.known:
                title = "predict: pictures in folders called after a class"
                figure = confusion_matrix(tally.confusion, ensemble.classes, title)
                save(figure, folder / "confusion_matrix.png")
            tracker.metrics(tally.metrics())
            if output is not None:
                with disk_faults_told(output):
                    shutil.copytree(folder, output, dirs_exist_ok=True)
        where = str(output) if output else tracker.artifact_place()
        if not tally.pictures:
            more = f" and {tally.unreadable - 1:,} more" if tally.unreadable > 1 else ""
            raise UserError(
                f"images={settings.images} holds no picture that can be read: {tally.reasons[0]}"
                f"{more}; unreadable.csv in {where} has the reasons"
            )
        of_what = f"{counted(tally.pictures)} of `{settings.images}`, {tally.unreadable:,} more "
        words = [f"{of_what}unreadable, by `{settings.model}`.", *tally.verdicts()]
        if settings.gradcam:
            words.append(f"![Grad-CAM]({tracker.artifact_link('gradcam.png')})")
        tracker.describe("\n\n".join(words))
    return f"{tally.text()}\npredictions.csv and predictions.json are in {where}"


def _classify(
    folder: Path,
    ensemble: Ensemble,
    given: Given,
    models: Sequence[StoredModel],
    settings: PredictSettings,
) -> Tally:
    """Write a line a picture as it comes, and keep the counts."""
    classes = ensemble.classes
    source = Source("", given.root, settings.images, given.files(classes))
    learned = _learned(source, models)
    tally = Tally(
        classes,
        settings.abstain,
        np.zeros((len(classes),) * 2, dtype=np.int64),
        seen=0 if learned else None,
    )
    source = with_groups(source, settings.groups)
    for warning in source.warnings:
        print(f"warning: {printable_line(warning)}", file=sys.stderr)
    paths = (given.root / name for name in given.names)
    workers = available_cores() if settings.workers == "auto" else int(settings.workers)
    stream = classify_files(ensemble, paths, views=settings.tta, workers=workers)
    # Where folders are classes, the first pictures would be of one class alone.
    of_each, shown_of = -(-SHEET // len(classes)), Counter[str]()
    tiles: list[Tile] = []
    spare: list[Tile] = []  # fill the sheet where few classes are named
    with (
        _files(folder, classes) as write,
        tqdm(stream, total=len(given.names), desc="predict", unit="picture", disable=None) as bar,
    ):
        for one, prediction in zip(source.files, bar, strict=True):
            name = one.path
            label = classes.index(one.label) if one.label else None
            shown = utf8(name)
            if shown != name:  # it could be written into none of the files
                prediction = Prediction(prediction.path, None, "its name is not UTF-8")
            named = tally.add(shown, prediction, label, one.group)
            if tally.seen is not None and named is not None and label is not None:
                with prediction.path.open("rb") as file:
                    tally.seen += hashlib.file_digest(file, "sha256").hexdigest() in learned
            write(shown, named, prediction)
            if settings.gradcam and named is not None:
                tile = _tile(ensemble.members[0], shown, prediction, classes, label)
                _write_overlay(folder / "gradcam", tally.pictures - 1, tile)
                if len(tiles) < SHEET and shown_of[tile.predicted] < of_each:
                    tiles.append(tile)
                    shown_of[tile.predicted] += 1
                elif len(spare) < SHEET:
                    spare.append(tile)
    tiles = (tiles + spare)[:SHEET]
    if tiles:
        sheet = gradcam_sheet(
            tiles,
            "predict: evidence for the predicted class (Grad-CAM)",
            of_first=len(ensemble.members) > 1,
        )
        save(sheet, folder / "gradcam.png")
    return tally


def _learned(source: Source, models: Sequence[StoredModel]) -> frozenset[str]:
    """What any of the models is known to have learned from; not asked for without a known class."""
    if not any(file.label for file in source.files):
        return frozenset()
    return frozenset().union(*(learned_from(model.run_id) for model in models if model.run_id))


@contextmanager
def _files(folder: Path, classes: tuple[str, ...]) -> Iterator[Write]:
    """What writes a prediction to predictions.csv and .json, or to unreadable.csv."""
    with (
        (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as table,
        (folder / "unreadable.csv").open("w", encoding="utf-8", newline="") as bad,
        (folder / "predictions.json").open("w", encoding="utf-8") as document,
    ):
        rows, faults = csv.writer(table, lineterminator="\n"), csv.writer(bad, lineterminator="\n")
        rows.writerow(["path", "predicted", *probability_columns(classes)])
        faults.writerow(["path", "reason"])
        separator = "[\n"

        def write(name: str, named: str | None, prediction: Prediction) -> None:
            nonlocal separator
            entry: dict[str, Any] = {"path": name}
            if prediction.probabilities is None:
                faults.writerow([name, prediction.reason])
                entry["error"] = prediction.reason
            else:
                values = [f"{value:.9g}" for value in prediction.probabilities]
                rows.writerow([name, named, *values])
                entry["predicted"] = named or None
                entry["probabilities"] = dict(zip(classes, map(float, values), strict=True))
            # Without spaces: 1,000 classes make a line of tens of kilobytes.
            text = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
            document.write(separator + text)
            separator = ",\n"

        yield write
        document.write("\n]\n")


def _tile(
    member: Classifier,
    name: str,
    prediction: Prediction,
    classes: tuple[str, ...],
    label: int | None,
) -> Tile:
    """The picture as the network sees it, with the evidence for its predicted class."""
    assert prediction.probabilities is not None
    shown = member.preprocessing.picture(
        read_picture(prediction.path, member.description.max_pixels)
    )
    best = int(prediction.probabilities.argmax())
    inputs = member.preprocessing.tensor(shown)[None]
    heat = heat_maps(member.model, inputs, torch.tensor([best]))[0].numpy()
    return Tile(
        picture=np.asarray(shown),
        true=None if label is None else classes[label],
        predicted=classes[best],
        confidence=float(prediction.probabilities[best]),
        path=name,
        heat=heat,
    )


def _write_overlay(folder: Path, number: int, tile: Tile) -> None:
    assert tile.heat is not None
    folder.mkdir(exist_ok=True)
    picture = Image.fromarray(overlay(tile.picture, tile.heat))
    picture.save(folder / f"{number:06d}-{short_stem(tile.path)}.png")
