"""Data sets that others keep: torchvision's, as folders of files, and Kaggle's, as an archive."""

import contextlib
import difflib
import io
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tlkit.errors import UserError
from tlkit.files import atomic_folder, disk_is_full

_TRAIN_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE = {**_TWO, "val": {"split": "val"}}
_PETS = {"train": {"split": "trainval"}, "test": {"split": "test"}}

# Class of torchvision.datasets (and a variant after the slash): the arguments that give each of our
# splits; "" is a data set that comes unsplit.
TORCHVISION: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    "CIFAR10": _TRAIN_FLAG,
    "CIFAR100": _TRAIN_FLAG,
    "Country211": {**_TWO, "val": {"split": "valid"}},
    "DTD": _THREE,
    "EuroSAT": {"": {}},
    "FGVCAircraft": _THREE,
    "FashionMNIST": _TRAIN_FLAG,
    "Flowers102": _THREE,
    "Food101": _TWO,
    "GTSRB": _TWO,
    "Imagenette": {"train": {"split": "train"}, "test": {"split": "val"}},
    "KMNIST": _TRAIN_FLAG,
    "MNIST": _TRAIN_FLAG,
    "OxfordIIITPet": {
        split: {**options, "target_types": "binary-category"} for split, options in _PETS.items()
    },
    "OxfordIIITPet/breeds": _PETS,
    "RenderedSST2": _THREE,
    "STL10": _TWO,
    "SVHN": _TWO,
    "USPS": _TRAIN_FLAG,
}


def torchvision_folder(name: str, cache: Path) -> Path:
    """Download a classification set of torchvision and lay it out as SPLIT/CLASS/picture, once.

    Files that torchvision keeps as pictures keep their bytes; arrays become PNG. Raises UserError
    for an unknown name and a failed download.
    """
    if name not in TORCHVISION:
        near = difflib.get_close_matches(name, TORCHVISION, n=3, cutoff=0.4)
        raise UserError(
            f"torchvision:{name} is not known; {'near are' if near else 'known are'} "
            f"{', '.join(near or TORCHVISION)}; another set can be passed as a folder, data=FOLDER"
        )
    target = cache / "torchvision" / name.replace("/", "-")
    if not target.exists():
        with atomic_folder(target) as folder:
            for split, options in TORCHVISION[name].items():
                dataset = _torchvision_dataset(name, cache / "torchvision" / "raw", options)
                _export(dataset, _class_names(dataset, options), folder / split, f"{name} {split}")
    return target


def _torchvision_dataset(name: str, raw: Path, options: Mapping[str, object]) -> Any:
    from torchvision import datasets  # slow to import, and most runs do without

    kind = getattr(datasets, name.split("/")[0])
    try:
        dataset = kind(raw, download=True, **options)
    except (OSError, RuntimeError, ValueError) as error:
        if disk_is_full(error):
            raise
        raise UserError(
            f"could not download {name} ({_first_line(error)}); check the network, or "
            f"put its files under {raw} as torchvision wants them, or pass a folder, data=FOLDER"
        ) from error
    if hasattr(dataset, "loader"):
        dataset.loader = Path  # hands out where the file is, undecoded
    return dataset


def _class_names(dataset: Any, options: Mapping[str, object]) -> list[str] | None:
    """Fit for folders; None for digits and traffic signs, which are known by number."""
    binary = options.get("target_types") == "binary-category"
    names = dataset.bin_classes if binary else getattr(dataset, "classes", None)
    if names is None:
        return None
    first = [name if isinstance(name, str) else name[0] for name in names]
    return [re.sub(r'[\\/:*?"<>|]', "-", name) for name in first]


def _export(dataset: Any, names: list[str] | None, folder: Path, title: str) -> None:
    paths = getattr(dataset, "_images", None)  # OxfordIIITPet, the one on files without a loader
    bar = tqdm(range(len(dataset)), desc=f"export {title}", unit="picture", disable=None)
    for index in bar:
        picture, label = dataset[index]
        place = folder / (names[int(label)] if names else f"{int(label):02}")
        place.mkdir(parents=True, exist_ok=True)
        file = picture if isinstance(picture, Path) else paths and Path(paths[index])
        if file:
            _link(file, place / file.name)
        else:
            picture.save(place / f"{index:06d}.png")


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)  # Food101 is 5 GB, once is enough
    except FileExistsError:
        raise
    except OSError:  # a disk without hard links
        shutil.copyfile(file, target)


def kaggle_archive(competition: str, cache: Path) -> Path:
    """Download the files of a Kaggle competition through the `kaggle` client, once: a zip.

    Raises UserError, with the way to do it by hand, where the client is not installed, has no
    credentials, or is turned away.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", competition):
        raise UserError(
            f"kaggle:{competition} is no competition; the name is the last part of its address, as "
            "in kaggle:dogs-vs-cats"
        )
    target = cache / "kaggle" / competition
    if not target.exists():
        with atomic_folder(target) as folder:
            _kaggle_download(competition, folder)
    return next(path for path in sorted(target.iterdir()) if path.is_file())


def _kaggle_download(competition: str, folder: Path) -> None:
    page = f"https://www.kaggle.com/competitions/{competition}/data"
    way_out = f"or download it by hand from {page} and pass the file, data={competition}.zip"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the client explains itself at length
            import kaggle

            kaggle.api.authenticate()
    except ImportError as error:
        raise UserError(f"no kaggle client here; pip install kaggle, {way_out}") from error
    except (Exception, SystemExit) as error:  # by version: exits, or raises OSError, ValueError ...
        raise UserError(
            "kaggle has no credentials (~/.kaggle/kaggle.json, see "
            f"https://www.kaggle.com/settings); make a token there, {way_out}"
        ) from error
    try:
        kaggle.api.competition_download_files(
            competition, path=str(folder), quiet=not sys.stderr.isatty()
        )
    except (Exception, SystemExit) as error:
        if disk_is_full(error):
            raise
        raise UserError(
            f"kaggle refuses {competition} ({_first_line(error)}); log in and accept its rules on "
            f"{page}, {way_out}"
        ) from error
    if not any(path.is_file() for path in folder.iterdir()):
        raise UserError(f"kaggle gave no file for {competition}; check the name, {way_out}")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
