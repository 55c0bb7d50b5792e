"""Which pictures belong together, as those of one patient or one film."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from tlkit.data.manifest import SPLITS
from tlkit.data.sources import Source, SourceFile
from tlkit.errors import UserError
from tlkit.files import utf8

# Of names such as patient7_left.jpg or film12-0003.png what stands before the first separator that
# follows a number.
_BEGINNING = "(?:^|/)([A-Za-z]*[-_ ]?[0-9]+)[-_ ][^/]*$"
_GUESSES = {"folder": "lie in {} folders", _BEGINNING: "have names with {} beginnings"}


def with_groups(source: Source, groups: str) -> Source:
    """The files with the group that the key `groups` gives each, "" where it stands for itself; and
    a warning where nothing was said of folders or names that look like groups.

    Args:
        groups: "auto", the column `group` of a list; "none"; "folder", the first folder below that
            of the class, or in a list that of the picture; or a regular expression, searched in
            the path, whose first group that matched, or where it has none whole match, is the name.

    Raises:
        UserError: no file has a group by it.
    """
    name_of = _rule(groups)
    files = tuple(replace(file, group=name_of(file)) for file in source.files)
    alone = [file.path for file in files if not file.group]
    warnings: list[str] = []
    if groups == "auto" and len(alone) == len(files):
        warnings += _maybe_groups(files)
    elif groups != "none" and len(alone) == len(files):
        raise UserError(
            f"groups={groups} names no group for any of the {len(files)} files of {source.place}, "
            f"such as {utf8(alone[0])}; expected is folder (CLASS/GROUP/1.jpg), or a regular "
            "expression that is found in the paths; change it, or leave it out"
        )
    elif groups != "none" and alone:
        rule = "the column group of the list" if groups == "auto" else f"groups={groups}"
        warnings.append(
            f"{rule} names no group for {len(alone)} of {len(files)} files, each of which stands "
            f"for itself, such as {utf8(alone[0])}"
        )
    return replace(source, files=files, warnings=(*source.warnings, *warnings))


def _maybe_groups(files: Sequence[SourceFile]) -> list[str]:
    """What to ask, of folders or else of names."""
    labels = [file.label for file in files]
    for groups, seen in _GUESSES.items():
        named = zip(map(_rule(groups), files), labels, strict=True)
        found = Counter((name, label) for name, label in named if name)
        names = sorted({name for name, _ in found})
        # What tells classes or a class's splits apart is no group, nor is a number that each class
        # has once.
        most = max(2, len(SPLITS) * len(set(labels)))
        if len(names) > most and found.total() >= max(2 * len(found), len(files) / 2):
            some = utf8(", ".join(names[:3]))
            return [
                f"the pictures {seen.format(len(names))} ({some}, ...); where those of one belong "
                "together, as those of a patient or a film, the test may know them from training: "
                f"give -P 'groups={groups}'; else -P groups=none"
            ]
    return []


def _rule(groups: str) -> Callable[[SourceFile], str]:
    return _RULES.get(groups) or _by_match(re.compile(groups))


def _by_match(pattern: re.Pattern[str]) -> Callable[[SourceFile], str]:
    def name_of(file: SourceFile) -> str:
        match = pattern.search(file.path)
        if not match:
            return ""
        if not pattern.groups:
            return match[0]
        return next((part for part in match.groups() if part is not None), "")

    return name_of


_RULES: dict[str, Callable[[SourceFile], str]] = {
    "auto": lambda file: file.group,
    "none": lambda file: "",
    "folder": lambda file: file.folder,
}
