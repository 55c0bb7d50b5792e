"""Look at every picture before any training: what is unreadable, copied, leaked, mislabelled."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import combinations
from mimetypes import MimeTypes
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tlkit.data.images import NO_PICTURE, SUFFIXES, UnreadablePicture, read_bytes
from tlkit.data.looks import Looks
from tlkit.data.manifest import SPLITS, Manifest, Picture
from tlkit.data.near import near_groups, near_hashes
from tlkit.data.sources import Source, SourceFile
from tlkit.data.splits import hold_out_alike
from tlkit.errors import UserError
from tlkit.files import csv_text, utf8

MAX_UNREADABLE = 0.1
MAX_IMBALANCE = 10
# The artifact of a run that ends because of what cannot be read.
UNREADABLE = "data/unreadable.csv"
_KINDS = MimeTypes()  # without what this machine knows besides
MAX_LISTED = 1000  # near pairs; a film cut into frames has millions


@dataclass(frozen=True)
class Quarantined:
    """A file left out because it cannot be read."""

    path: str
    reason: str


@dataclass(frozen=True)
class Damaged:
    """A picture that can be decoded, and is kept, although something in its file is wrong."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dropped:
    """A readable picture left out of `split` because its very bytes are in `kept_in` as well."""

    path: str
    split: str
    duplicate_of: str
    kept_in: str


@dataclass(frozen=True)
class NearPair:
    """Two pictures in different splits that look alike; `distance` in bits, of 64."""

    path: str
    split: str
    other: str
    other_split: str
    distance: int


@dataclass(frozen=True)
class DividedGroup:
    """A group that has pictures in more than one split, and how many in each."""

    group: str
    pictures: dict[str, int]


@dataclass(frozen=True)
class AuditReport:
    """What was found. All paths are POSIX and relative to the manifest's root.

    What is `damaged` can be decoded all the same, and stays. `copies` are groups of the same
    content within one split and class, which stay; `conflicting_labels` the same content under two
    labels. `kept_together` are pictures that look alike and were drawn into one split. `groups` has
    how many there are in each split, and nothing where each picture stands for itself;
    `divided_groups` are those that the user's own splits divide.
    `near_duplicates` are the closest MAX_LISTED of `near_duplicate_pairs`, and stay as well.
    """

    source: str
    files: int
    counts: dict[str, dict[str, int]]
    warnings: tuple[str, ...]
    quarantined: tuple[Quarantined, ...]
    damaged: tuple[Damaged, ...]
    dropped_duplicates: tuple[Dropped, ...]
    conflicting_labels: tuple[tuple[str, ...], ...]
    copies: tuple[tuple[str, ...], ...]
    kept_together: tuple[tuple[str, ...], ...]
    mismatched_extensions: dict[str, str]
    near_duplicate_pairs: int
    near_duplicates: tuple[NearPair, ...]
    groups: dict[str, int] = field(default_factory=dict)
    divided_groups: tuple[DividedGroup, ...] = ()

    @property
    def summary(self) -> str:
        """The counts on one line."""
        splits = ", ".join(
            f"{sum(self.counts[s].values())} {s}"
            + (f" (of {self.groups[s]} groups)" if self.groups else "")
            for s in SPLITS
        )
        return (
            f"{self.files} files: {splits}; {len(self.quarantined)} unreadable, "
            f"{len(self.dropped_duplicates)} duplicates dropped, "
            f"{self.near_duplicate_pairs} near duplicates across splits"
        )

    def to_json(self) -> str:
        """Indented JSON, the same text for the same files."""
        return json.dumps({"summary": self.summary} | asdict(self), indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class _Seen:
    """A readable picture. `look` is its perceptual hash, None where it is flat, and `damage` what
    is wrong with it, None where nothing is."""

    file: SourceFile
    sha256: str
    content: str
    look: int | None
    damage: str | None

    @property
    def split(self) -> str:
        return self.file.split or "train"


def audit(
    source: Source,
    *,
    seed: int,
    max_pixels: int,
    val_fraction: float,
    test_fraction: float,
    workers: int,
    looks: Path,
) -> tuple[Manifest, AuditReport]:
    """Read every file once, and keep what can be trained on.

    Unreadable files are left out. Of the same content in two splits the copy in test stays, then
    the one in val. A split that the source does not have is drawn from the training pictures
    (`hold_out_alike`), `val_fraction` or `test_fraction` of them, no group divided. `workers`
    threads read; the result does not depend on their number, nor on `looks`, the file that
    remembers what an earlier audit saw in the same content.

    Raises UserError for fewer than two classes and for classes with too few files to be in every
    split, both before anything is read, for a class without a readable picture or missing from a
    split after all, and more than MAX_UNREADABLE of the files unreadable. Files that their names
    tell to be something else (annotations, films) are left out and do not count for that.
    """
    classes = tuple(sorted({file.label for file in source.files}))
    if len(classes) < 2:
        found = f"one class only, {classes[0]!r}" if classes else "no pictures"
        raise UserError(
            f"{source.place} has {found}; two classes or more are needed; check that each class "
            "has a folder of its own, or in a list a name of its own"
        )
    fractions = _missing(source, {"val": val_fraction, "test": test_fraction})
    _refuse_few_files(source, classes, fractions)
    seen, unreadable = _read_all(source, max_pixels, workers, looks)
    _refuse_unreadable(source, classes, seen, unreadable)
    kept, dropped = _without_leaks(seen)
    kept, together = _with_held_out(kept, fractions, seed)
    # Groups are whole, so what two of them share may have come into two splits.
    kept, more = _without_leaks(kept)
    dropped += more
    label_of = {name: label for label, name in enumerate(classes)}
    pictures = [
        Picture(one.file.path, label_of[one.file.label], one.split, one.sha256, one.file.group)
        for one in kept
    ]
    manifest = Manifest(source.root, classes, tuple(pictures))
    for split, counts in manifest.counts().items():
        left_out = len(unreadable) + len(dropped)
        _refuse_few(source, counts, split, 1, fractions, left_out, _listed(unreadable))
    return manifest, _report(source, manifest, fractions, seen, unreadable, kept, dropped, together)


def _report(
    source: Source,
    manifest: Manifest,
    fractions: Mapping[str, float],
    seen: Sequence[_Seen],
    unreadable: Sequence[tuple[SourceFile, str]],
    kept: Sequence[_Seen],
    dropped: Sequence[Dropped],
    together: Sequence[tuple[str, ...]],
) -> AuditReport:
    conflicting = [
        tuple(one.file.path for one in group)
        for group in _same_content(seen)
        if len({one.file.label for one in group}) > 1
    ]
    copies = [
        tuple(one.file.path for one in group)
        for group in _same_content(kept)
        if len({one.file.label for one in group}) == 1
    ]
    damaged = [Damaged(one.file.path, one.damage) for one in kept if one.damage is not None]
    mismatched = {one.file.path: fault for one in kept if (fault := _extension_fault(one))}
    pair_count, near = _near_pairs(kept)
    groups, divided = _groups(manifest)
    given = any(file.split for file in source.files)
    drawn = fractions if given else ()
    apart = "" if given else ", too many to stay together"
    findings = {
        "files that cannot be read, left out": len(unreadable),
        "pictures whose file is damaged, some of which may be grey or shifted, kept": len(damaged),
        "pictures that are in two splits, left out of one": len(dropped),
        "pictures that are there under two labels, kept under both": len(conflicting),
        "pictures that are there more than once in a split": len(copies),
        "groups of pictures that look alike, each drawn into one split": len(together),
        "groups with pictures in two splits or three, kept there, so that the test is of known "
        "ones": len(divided),
        "files whose content is not what their extension says": len(mismatched),
        f"pairs of pictures in different splits that look alike{apart}": pair_count,
    }
    return AuditReport(
        source=source.name,
        files=len(source.files),
        counts=manifest.counts(),
        warnings=(
            *source.warnings,
            *(f"{split} is missing and was drawn from train" for split in drawn),
            *(f"{what}: {number}" for what, number in findings.items() if number),
            *_class_warnings(manifest.counts()),
            *(_group_warnings(manifest, fractions) if groups else ()),
        ),
        quarantined=tuple(Quarantined(utf8(file.path), reason) for file, reason in unreadable),
        damaged=tuple(damaged),
        dropped_duplicates=tuple(dropped),
        conflicting_labels=tuple(conflicting),
        copies=tuple(copies),
        kept_together=tuple(together),
        mismatched_extensions=mismatched,
        near_duplicate_pairs=pair_count,
        near_duplicates=tuple(near),
        groups=groups,
        divided_groups=tuple(divided),
    )


def _read_all(
    source: Source, max_pixels: int, workers: int, looks: Path
) -> tuple[list[_Seen], list[tuple[SourceFile, str]]]:
    """The readable pictures, and the other files with the reason why not."""

    def read(file: SourceFile) -> _Seen | tuple[SourceFile, str]:
        try:
            return _see(source.root, file, max_pixels, remembered)
        except UnreadablePicture as error:
            return file, str(error)

    # Threads, because Pillow lets go of the interpreter while it decodes: 1,400 photos on 2 cores
    # took 2.6 s, against 2.0 s with forked and 4.5 s with spawned processes. A ThreadPool, because
    # Ctrl-C does not wait for its queue.
    with Looks(looks, max_pixels) as remembered, ThreadPool(max(1, workers)) as pool:
        results = list(
            tqdm(
                pool.imap(read, source.files, chunksize=8),
                total=len(source.files),
                desc="audit",
                unit="picture",
                disable=None,
            )
        )
    seen = [result for result in results if isinstance(result, _Seen)]
    return seen, [result for result in results if not isinstance(result, _Seen)]


def _see(root: Path, file: SourceFile, max_pixels: int, remembered: Looks) -> _Seen:
    if utf8(file.path) != file.path:
        raise UnreadablePicture("its name is not UTF-8")
    if "\r" in file.path:
        raise UnreadablePicture("its name has a carriage return")
    data = read_bytes(root / file.path, max_pixels)
    digest = sha256(data).hexdigest()
    look = remembered.of(data, digest)
    return _Seen(file, digest, look.content, look.bits, look.damage)


def _refuse_unreadable(
    source: Source,
    classes: Sequence[str],
    seen: Sequence[_Seen],
    unreadable: Sequence[tuple[SourceFile, str]],
) -> None:
    readable = {one.file.label for one in seen}
    if without := [label for label in classes if label not in readable]:
        of_them = [(file, reason) for file, reason in unreadable if file.label not in readable]
        raise UserError(
            f"{source.place} has no readable picture of {_some(without, classes)}: "
            f"{_first(of_them)}; every class needs some; repair or replace them: {UNREADABLE} of "
            "the failed run names all",
            _listed(of_them),
        )
    meant = [(file, reason) for file, reason in unreadable if not _is_beside(file, reason)]
    others = len(unreadable) - len(meant)
    if len(meant) > MAX_UNREADABLE * (len(source.files) - others):
        raise UserError(
            f"{len(meant)} of {len(source.files) - others} files in {source.place} cannot be read "
            f"as pictures ({_first(meant)}); allowed are {MAX_UNREADABLE:.0%}; repair or remove "
            f"them: {UNREADABLE} of the failed run names all",
            _listed(meant),
        )


def _is_beside(file: SourceFile, reason: str) -> bool:
    """Whether it was never meant for a picture, as annotations and film are not."""
    kind, _ = _KINDS.guess_type(file.path)
    return reason == NO_PICTURE and kind is not None and not kind.startswith("image/")


def _listed(unreadable: Sequence[tuple[SourceFile, str]]) -> dict[str, str]:
    """As an artifact of the run that fails by it."""
    rows = ((utf8(file.path), reason) for file, reason in unreadable)
    return {UNREADABLE: csv_text(("path", "reason"), rows)} if unreadable else {}


def _some(labels: Sequence[str], classes: Collection[str]) -> str:
    """How many classes, and the first of them."""
    first = ", ".join(map(repr, labels[:3])) + (", ..." if len(labels) > 3 else "")
    return f"{len(labels)} of {len(classes)} classes ({first})"


def _first(unreadable: Sequence[tuple[SourceFile, str]]) -> str:
    first = [f"{utf8(file.path)}: {reason}" for file, reason in unreadable[:3]]
    return "; ".join(first) + ("; ..." if len(unreadable) > 3 else "")


def _same_content(seen: Iterable[_Seen]) -> list[list[_Seen]]:
    """Groups of two and more with the same bytes, in the order of the source."""
    groups: defaultdict[str, list[_Seen]] = defaultdict(list)
    for one in seen:
        groups[one.sha256].append(one)
    return [group for group in groups.values() if len(group) > 1]


def _without_leaks(seen: Sequence[_Seen]) -> tuple[list[_Seen], list[Dropped]]:
    keeper: dict[str, _Seen] = {}
    for one in sorted(seen, key=lambda one: SPLITS.index(one.split), reverse=True):
        keeper.setdefault(one.sha256, one)
    kept, dropped = [], []
    for one in seen:
        best = keeper[one.sha256]
        if one.split == best.split:
            kept.append(one)
        else:
            dropped.append(Dropped(one.file.path, one.split, best.file.path, best.split))
    return kept, dropped


def _missing(source: Source, fractions: Mapping[str, float]) -> dict[str, float]:
    given = {file.split for file in source.files}
    return {split: fraction for split, fraction in fractions.items() if split not in given}


def _with_held_out(
    kept: Sequence[_Seen], fractions: Mapping[str, float], seed: int
) -> tuple[list[_Seen], list[tuple[str, ...]]]:
    """The pictures with the missing splits drawn, and the paths of those that look alike, without
    being copies or of one group, and came into one split."""
    if not fractions:
        return list(kept), []
    pool = [one for one in kept if one.split == "train"]
    alike = near_groups([one.look for one in pool])
    drawn = hold_out_alike(
        [one.file.label for one in pool],
        [one.sha256 for one in pool],
        [one.file.group for one in pool],
        alike,
        fractions,
        seed,
    )
    split_of = {one.file.path: split for one, split in zip(pool, drawn, strict=True)}
    split = [
        replace(one, file=replace(one.file, split=split_of.get(one.file.path, one.split)))
        for one in kept
    ]
    together = [
        tuple(pool[index].file.path for index in group)
        for group in alike
        if len({drawn[index] for index in group}) == 1
        and len({pool[index].sha256 for index in group}) > 1
        and len({pool[index].file.group or index for index in group}) > 1
    ]
    return split, together


def _refuse_few_files(source: Source, classes: Sequence[str], drawn: Collection[str]) -> None:
    """What is known before anything is read: how many files or groups there are to split."""
    apart = {
        (file.split or "train", file.label, file.group or index)
        for index, file in enumerate(source.files)
    }
    given = Counter((split, label) for split, label, _ in apart)
    for split in SPLITS:
        if split not in drawn:
            least = 1 + len(drawn) if split == "train" else 1
            counts = {label: given[split, label] for label in classes}
            _refuse_few(source, counts, split, least, drawn)


def _refuse_few(
    source: Source,
    counts: Mapping[str, int],
    split: str,
    least: int,
    drawn: Collection[str],
    left_out: int = 0,
    artifacts: Mapping[str, str] | None = None,
) -> None:
    few = [label for label, number in counts.items() if number < least]
    if few:
        grouped = any(file.group for file in source.files)
        what, ones = ("groups of pictures", "groups") if grouped else ("pictures", "ones")
        without = f", {left_out} unreadable or doubled files left out" if left_out else ""
        raise UserError(
            f"{source.place}: {split} has too few {what} of {_some(few, counts)}: "
            f"{counts[few[0]]} of {few[0]!r}, where {least} would be the least{without}; every "
            f"class must be in every split; {_way_out(split, few, counts, drawn, ones)}",
            artifacts,
        )


def _way_out(
    split: str, few: Collection[str], classes: Iterable[str], drawn: Collection[str], ones: str
) -> str:
    ways: dict[str, Callable[[str], str]] = {
        "Unicode NFD, as macOS has it, and NFC": partial(normalize, "NFC"),
        "small letters and capitals": str.casefold,
    }
    for how, form in ways.items():
        forms: defaultdict[str, list[str]] = defaultdict(list)
        for label in classes:
            forms[form(label)].append(label)
        for twins in forms.values():
            if len(twins) > 1 and not set(few).isdisjoint(twins):
                return (
                    f"{twins[0]!a} and {twins[1]!a} differ in writing alone ({how}), which makes "
                    "them two classes; if one is meant, rename the folders of one of them"
                )
    if split in drawn or (split == "train" and drawn):
        places = ("train", *drawn)
        return f"add more: a class needs {len(places)} different {ones}, for {', '.join(places)}"
    if split != "train":
        return f"add some, or remove the {split} folder to have {split} drawn from train"
    return "add some, or remove the class from the other splits"


def _class_warnings(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for split, classes in counts.items():
        if single := [label for label, number in classes.items() if number == 1]:
            yield f"{split} has one picture only of {_some(single, classes)}"
    total: Counter[str] = Counter()
    for classes in counts.values():
        total.update(classes)
    if formulas := [label for label in total if label.startswith(("=", "+", "-", "@"))]:
        yield f"a spreadsheet takes the name of {_some(formulas, total)} for a formula"
    trained = Counter(counts["train"]).most_common()
    (most, largest), (least, smallest) = trained[0], trained[-1]
    if largest > MAX_IMBALANCE * smallest:
        yield (
            f"strong imbalance: {largest} training pictures of {most!r} and {smallest} of "
            f"{least!r}; look at balanced accuracy, and try class_weights=balanced"
        )


def _group_warnings(manifest: Manifest, fractions: Mapping[str, float]) -> Iterator[str]:
    """Of classes whose groups are so few or so large that a split has one alone, or that a drawn
    one has another share than was asked for."""
    counts = manifest.counts()
    for split, fraction in fractions.items():
        for label, number in counts[split].items():
            total = sum(counts[drawn][label] for drawn in ("train", *fractions))
            if abs(number - fraction * total) > max(1, fraction * total / 2):
                yield (
                    f"{split} has {number} of {total} pictures of {label!r}, {number / total:.0%} "
                    f"where {fraction:.0%} was asked for, because groups stay whole"
                )
    for split in SPLITS:
        groups: defaultdict[str, set[str]] = defaultdict(set)
        for picture in manifest.of(split):
            groups[manifest.classes[picture.label]].add(picture.group or picture.path)
        single = [name for name, of_class in groups.items() if len(of_class) == 1]
        if single := [name for name in single if counts[split][name] > 1]:
            yield (
                f"{split} has one group only of {_some(sorted(single), manifest.classes)}, which "
                "tells little of others; more groups are needed"
            )


def _groups(manifest: Manifest) -> tuple[dict[str, int], list[DividedGroup]]:
    """How many each split has, with pictures that stand for themselves, and those in several."""
    if not any(picture.group for picture in manifest.pictures):
        return {}, []
    split_of: defaultdict[str, Counter[str]] = defaultdict(Counter)
    numbers = Counter(picture.split for picture in manifest.pictures if not picture.group)
    for picture in manifest.pictures:
        if picture.group:
            split_of[picture.group][picture.split] += 1
    for pictures in split_of.values():
        numbers.update(pictures.keys())
    divided = [
        DividedGroup(group, dict(pictures))
        for group, pictures in sorted(split_of.items())
        if len(pictures) > 1
    ]
    return {split: numbers[split] for split in SPLITS}, divided


def _extension_fault(one: _Seen) -> str | None:
    suffix = PurePosixPath(one.file.path).suffix.lower()
    if not suffix or SUFFIXES.get(suffix) == one.content:
        return None
    return f"extension says {suffix[1:]}, content is {one.content.lower()}"


def _near_pairs(kept: Sequence[_Seen]) -> tuple[int, list[NearPair]]:
    """How many pairs in different splits are near, and the nearest of them."""
    members = {
        split: [one for one in kept if one.split == split and one.look is not None]
        for split in SPLITS
    }
    total, pairs = 0, []
    for split, other in combinations(SPLITS, 2):
        number, found = near_hashes(_looks(members[split]), _looks(members[other]), MAX_LISTED)
        total += number
        pairs += [
            NearPair(
                members[split][row].file.path,
                split,
                members[other][column].file.path,
                other,
                distance,
            )
            for distance, row, column in found.tolist()
        ]
    pairs.sort(key=lambda pair: (pair.distance, pair.path, pair.other))
    return total, pairs[:MAX_LISTED]


def _looks(members: Sequence[_Seen]) -> NDArray[np.uint64]:
    return np.array([one.look for one in members], dtype=np.uint64)
