"""A list of pictures, a CSV file: which class each has, and maybe its split and its group."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tlkit.errors import UserError

SUFFIX = ".csv"
# What a column may be called; where there are two of them, the first counts. A manifest of tlkit's
# has the classes' names under `class` and their numbers under `label`, and is a list too.
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "class": ("class", "label"),
    "split": ("split",),
    "group": ("group",),
}
_NEEDED = ("path", "class")
_DELIMITERS = ",;\t"


def read_list(path: Path, splits: Mapping[str, str]) -> list[dict[str, str]]:
    """The rows of a list, each with the keys of COLUMNS, "" for what it does not say.

    Commas, semicolons or tabs stand between columns. Paths become POSIX and relative to the folder
    of the list, and splits what `splits` has for them, whether in capitals or not.

    Raises:
        UserError: not UTF-8, no column for paths or for classes, no rows, a row without either or
            with an unknown split, a path outside the folder of the list, or one that is listed
            twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the list {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the list {path} is not UTF-8 ({error}); save it as UTF-8") from error
    if "\0" in text:
        raise UserError(f"the list {path} has bytes of 0; save it as UTF-8 text")
    delimiter = max(_DELIMITERS, key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        column_of = _columns(path, reader.fieldnames or ())
        rows = list(_rows(path, reader, column_of, splits))
    except csv.Error as error:
        line = reader.reader.line_num
        raise UserError(f"{path}, line {line}: {error}; mend the file") from error
    if not rows:
        raise UserError(f"the list {path} has no pictures below its first line; add some")
    return rows


def _columns(path: Path, heading: Sequence[str]) -> dict[str, str]:
    """The column of the file for each key that it has."""
    given = {name.strip().lower(): name for name in heading}
    if len(given) < len(heading):
        raise UserError(f"the list {path} has two columns of one name: {', '.join(heading)!r}")
    column_of = {
        key: next(given[name] for name in names if name in given)
        for key, names in COLUMNS.items()
        if not given.keys().isdisjoint(names)
    }
    if missing := [key for key in _NEEDED if key not in column_of]:
        wanted = " and none for ".join(f"{key} ({', '.join(COLUMNS[key])})" for key in missing)
        raise UserError(
            f"the list {path} has no column for {wanted}; its first line is {', '.join(given)!r}; "
            "expected are path and class, and where you have them split and group"
        )
    return column_of


def _rows(
    path: Path,
    reader: "csv.DictReader[str]",
    column_of: Mapping[str, str],
    splits: Mapping[str, str],
) -> Iterator[dict[str, str]]:
    line_of: dict[str, int] = {}
    for row in reader:
        where = f"{path}, line {reader.line_num}"
        if None in row:
            raise UserError(
                f"{where}: more cells than the first line has; put a cell with the separator in it "
                "into quotes"
            )
        found = dict.fromkeys(COLUMNS, "") | {
            key: (row[column] or "").strip() for key, column in column_of.items()
        }
        # A cell may have a line break, which is none in the name of a class.
        found |= {key: " ".join(found[key].splitlines()) for key in ("class", "group")}
        if not any(found.values()):
            continue  # what a spreadsheet leaves below a table
        if missing := [key for key in _NEEDED if not found[key]]:
            raise UserError(f"{where}: no {missing[0]}; fill it in, or remove the line")
        found["path"] = _below(path.parent, found["path"], where)
        first = line_of.setdefault(found["path"], reader.line_num)
        if first != reader.line_num:
            raise UserError(
                f"{where}: {found['path']} stands in line {first} already; a picture has one class "
                "and one split; remove one of the lines"
            )
        if split := found["split"].lower():
            if split not in splits:
                raise UserError(
                    f"{where}: unknown split {found['split']}; allowed are {', '.join(splits)}, "
                    "and nothing for train, from which missing splits are drawn"
                )
            found["split"] = splits[split]
        yield found


def _below(folder: Path, name: str, where: str) -> str:
    """The path as seen from the folder of the list."""
    for root in (os.path.abspath(folder), os.path.realpath(folder)):
        path = Path(os.path.normpath(os.path.join(root, name)))
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    raise UserError(
        f"{where}: {name} lies outside {folder}; paths are seen from the folder of the list; put "
        "the list above the pictures"
    )
