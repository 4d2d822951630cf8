"""Which image files a set has, and their classes: from list files, or from a folder a class.

A list file has one line an image, `path label`, as those of ImageNet-LT and iNaturalist 2018 (Liu
et al., "Large-scale long-tailed recognition in an open world", CVPR 2019): the path is relative to
the image root, the label an integer from 0. A third column, where there is one, is the sample's
weight in the training loss. The files themselves are not opened here.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saddlescope.errors import DataError
from saddlescope.runs import read_text

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
"""Endings of the image files that a folder is searched for, in any case."""

_NOT_READ = (
    ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl", ".apng",
    ".dib", ".tga", ".pam", ".pfm", ".pcx", ".ico", ".psd", ".svg", ".eps", ".exr", ".dds",
    ".dng", ".cr2", ".cr3", ".nef", ".arw",
)  # fmt: skip
"""Endings of images of other formats: a class that has some would silently lose them."""

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
    folder: Path,
    *,
    classes: tuple[str, ...] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[Listing, tuple[str, ...]]:
    """Search a folder that has one folder a class, each with all that is below it, links followed.

    Hidden files and folders, whose names begin with a dot, do not count: file managers leave
    thumbnails there.

    Args:
        folder: such as `train`.
        classes: names by number; None takes all that are there, sorted.
        report: told once of files that were left out.

    Returns:
        The files, sorted by class and then by name, and the class names.

    Raises:
        DataError: no such folder, a class without images, or one that is not known; an image of a
            format that is not read, a link that leads nowhere.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected one folder a class there")
    there, left_out = ([path.name for path in paths] for paths in _inside(folder))
    names = tuple(there) if classes is None else classes
    if not names:
        raise DataError(f"{folder}: no folder in it; expected one a class")
    if unknown := sorted(set(there) - set(names)):
        raise DataError(f"{folder}: class {unknown[0]!r} is not one of the training set's")
    paths: list[str] = []
    labels: list[int] = []
    for number, name in enumerate(names):
        images: list[str] = []
        for path in _files_below(folder / name):
            suffix, place = path.suffix.lower(), path.relative_to(folder).as_posix()
            if suffix in _NOT_READ:
                raise DataError(
                    f"{path}: images of this format are not read; convert it (to PNG, say) or move "
                    f"it out of {folder}"
                )
            (images if suffix in SUFFIXES else left_out).append(place)
        if not images:
            raise DataError(f"{folder / name}: no image ({', '.join(SUFFIXES)})")
        paths += sorted(images)
        labels += [number] * len(images)
    if left_out:
        report(
            f"{folder}: {len(left_out):,} files left out, which are not named as images or are in "
            f"no class's folder (first: {left_out[0]})"
        )
    return Listing(folder, tuple(paths), tuple(labels)), names


def _files_below(top: Path) -> Iterator[Path]:
    """The files below a class's folder; each folder in it once, by however many links.

    Links come last, so that what has a place of its own keeps it. A link to a folder above would
    bring the other classes' images into this one, and is not followed.
    """
    above = Path(os.path.realpath(top.parent))
    seen = {str(place) for place in (above, *above.parents, *Path(os.path.realpath(top)).parents)}
    folders, links = [top] if top.is_dir() else [], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        place = os.path.realpath(folder)
        if place in seen:
            continue
        seen.add(place)
        below, files = _inside(folder)
        for path in below:
            (links if path.is_symlink() else folders).append(path)
        yield from files


def _inside(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted, links followed, without hidden ones."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda found: found.name):
                if entry.name.startswith("."):
                    continue
                path = folder / entry.name
                if entry.is_dir():
                    folders.append(path)
                elif entry.is_file():
                    files.append(path)
                else:
                    what = "a link that leads nowhere" if entry.is_symlink() else "no regular file"
                    raise DataError(f"{path}: {what}; mend or remove it")
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror}") from None
    return folders, files


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
