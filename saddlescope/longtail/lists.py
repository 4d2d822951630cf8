"""Which image files a set has, and their classes: from list files, or from a folder a class.

A list file has one line an image, `path label`, as those of ImageNet-LT and iNaturalist 2018 (Liu
et al., "Large-scale long-tailed recognition in an open world", CVPR 2019): the path is relative to
the image root, the label an integer from 0. A third column, where there is one, is the sample's
weight in the training loss. The files themselves are not opened here.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saddlescope.errors import DataError
from saddlescope.runs import read_text

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm")
"""Endings of the image files that a folder is searched for, in any case."""

_LINE = re.compile(
    r"(?P<path>.+?)\s+(?P<label>[0-9]{1,9})(?:\s+(?P<weight>[-+]?(?:[0-9.]+(?:e[-+]?[0-9]+)?|inf|nan)))?",
    re.IGNORECASE,
)
_MARK = "\ufeff"
"""Which editors of Windows put at the head of a file; it is no part of a path."""

_LARGEST_WEIGHT = 1e30
"""Of a sample; float32 holds it, and a loss times it."""

_LONGEST = 1 << 30
"""Bytes of a list file; iNaturalist's has 30 MB."""


@dataclass(frozen=True)
class Listing:
    """Image files by position.

    Attributes:
        root: folder that the paths are relative to.
        paths: with forward slashes.
        labels: one a path, from 0.
        weights: one a path; None where no line has one.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    weights: tuple[float, ...] | None = None


def read_list(file: Path, *, root: Path) -> Listing:
    """Read a list file.

    Raises:
        DataError: no such file, or a line that is not `path label` or `path label weight`, leaves
            the root or repeats a path; it names the line.
    """
    try:
        lines = read_text(file, limit=_LONGEST).removeprefix(_MARK).splitlines()
    except DataError as error:
        raise DataError(f"list file {error}") from None
    paths: list[str] = []
    labels: list[int] = []
    weights: list[float | None] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, label, weight = _parsed(line, root=root, where=f"{file}, line {number}")
        paths.append(path)
        labels.append(label)
        weights.append(weight)
    if not paths:
        raise DataError(f"list file {file}: no line; expected `path label` in each")
    if len(set(paths)) < len(paths):
        twice = next(path for path, count in Counter(paths).items() if count > 1)
        raise DataError(f"list file {file}: {twice} stands twice")
    given = [weight for weight in weights if weight is not None]
    if given and len(given) < len(weights):
        raise DataError(f"list file {file}: {len(given)} of {len(weights)} lines have a weight")
    return Listing(root, tuple(paths), tuple(labels), tuple(given) or None)


def read_folder(
    folder: Path, *, classes: tuple[str, ...] | None = None
) -> tuple[Listing, tuple[str, ...]]:
    """Search a folder that has one folder a class.

    Args:
        folder: such as `train`.
        classes: names by number; None takes all that are there, sorted.

    Returns:
        The files, sorted by class and then by name, and the class names.

    Raises:
        DataError: no such folder, a class without images, or one that is not known.
    """
    try:
        found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; expected one folder a class there") from None
    found = [name for name in found if not name.startswith(".")]
    names = tuple(found) if classes is None else classes
    if not names:
        raise DataError(f"{folder}: no folder in it; expected one a class")
    if unknown := sorted(set(found) - set(names)):
        raise DataError(f"{folder}: class {unknown[0]!r} is not one of the training set's")
    paths: list[str] = []
    labels: list[int] = []
    for number, name in enumerate(names):
        inside = sorted(
            str(PurePosixPath(path.relative_to(folder)))
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in SUFFIXES
        )
        if not inside:
            raise DataError(f"{folder / name}: no image ({', '.join(SUFFIXES)})")
        paths += inside
        labels += [number] * len(inside)
    return Listing(folder, tuple(paths), tuple(labels)), names


def _number(text: str) -> float:
    """A number; NaN of what only looks like one (1.2.3)."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _parsed(line: str, *, root: Path, where: str) -> tuple[str, int, float | None]:
    match = _LINE.fullmatch(line.strip())
    if match is None:
        raise DataError(
            f"{where}: {line.strip()[:80]!r} is not `path label`, the label an integer from 0"
        )
    path = PurePosixPath(match["path"])
    if path.is_absolute():
        # As it was written, or with its links followed: either may be what the list's maker saw.
        for start in (root.absolute(), root.resolve()):
            if path.is_relative_to(start):
                path = path.relative_to(start)
                break
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise DataError(f"{where}: {path} leaves the image root {root}; paths are relative to it")
    weight = None if match["weight"] is None else _number(match["weight"])
    if weight is not None and not 0 <= weight <= _LARGEST_WEIGHT:
        raise DataError(
            f"{where}: weight {match['weight']}: expected a number from 0 to {_LARGEST_WEIGHT:g}"
        )
    return str(path), int(match["label"]), weight
