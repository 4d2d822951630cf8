"""Decoded images on disk, mapped into memory: read again at the speed of the page cache.

One file holds the pixels of all images, one after the other, a second one where each begins. The
second is written last, so a build that was cut is no cache. Numbers do not change: what is kept is
exactly what decoding gives.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saddlescope.errors import DataError
from saddlescope.runs import atomic_path, write_json

_FORMAT = 3
"""Of the files, and of what decoding gives: 2 turns images as their EXIF says, 3 is found by where
the images are."""


class DecodedImages:
    """A cache of decoded images, opened when first asked for an image, in whatever process.

    Args:
        index: the JSON file that a build has left.

    Raises:
        DataError: not such a file, or the pixels are not those it speaks of.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError("format")
            self.places = {
                path: tuple(int(n) for n in place) for path, place in content["places"].items()
            }
            self._pixels_file = index.with_suffix(".bin")
            if self._pixels_file.stat().st_size != int(content["bytes"]):
                raise ValueError("bytes")
            for begin, height, width in self.places.values():
                if min(begin, height, width) < 0 or begin + 3 * height * width > content["bytes"]:
                    raise ValueError("places")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{index}: not a cache of decoded images; delete it") from None

    def __getitem__(self, path: str) -> npt.NDArray[np.uint8]:
        """Pixels of an image, shape (H, W, 3)."""
        begin, height, width = self.places[path]
        return self._pixels[begin : begin + 3 * height * width].reshape(height, width, 3)

    def __getstate__(self) -> dict[str, object]:
        # To a worker process goes where the pixels are, not the pixels.
        return {key: value for key, value in self.__dict__.items() if key != "_pixels"}

    @cached_property
    def _pixels(self) -> npt.NDArray[np.uint8]:
        return np.memmap(self._pixels_file, dtype=np.uint8, mode="r")


def cached(
    folder: Path,
    *,
    root: Path,
    paths: Iterable[str],
    shrink_to: int | None,
    read: Callable[[list[str]], Iterable[npt.NDArray[np.uint8]]],
    report: Callable[[str], None] = lambda _: None,
) -> DecodedImages:
    """Return the cache of these files in a folder, built where it is not there.

    Args:
        folder: of the caches; made where missing.
        root: of the images.
        paths: of the images, relative to it.
        shrink_to: shorter side that decoding reduces them to.
        read: decodes files one after the other.
        report: told what happens.

    Raises:
        DataError: a file that is missing or cannot be decoded.
        OSError: no room; nothing half-written is left.
    """
    wanted = sorted(paths)
    index = folder / f"images-{_key(root, wanted, shrink_to)[:16]}.json"
    if index.is_file():
        return DecodedImages(index)
    report(f"decoding {len(wanted):,} images once, into {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, tuple[int, int, int]] = {}
    position = 0
    with atomic_path(index.with_suffix(".bin")) as temporary, open(temporary, "wb") as handle:
        for path, pixels in zip(wanted, read(wanted), strict=True):
            height, width, _ = pixels.shape
            places[path] = (position, height, width)
            handle.write(pixels.tobytes())
            position += pixels.size
        handle.flush()
        os.fsync(handle.fileno())
    write_json(index, {"format": _FORMAT, "bytes": position, "places": places})
    report(f"{position / 2**30:.2f} GiB of pixels in {folder}")
    return DecodedImages(index)


def _key(root: Path, wanted: list[str], shrink_to: int | None) -> str:
    """A checksum of which files these are, and of what is made of them.

    Names, sizes and times are not enough: archives are unpacked with one time for all, and images
    without compression have one size. What tells such files apart is where they are, links
    followed. A file that was written over since has another time of change, which is not put back
    with its time of modification. Inode numbers are no part of it: some network drives give new
    ones at every mount.
    """
    key = hashlib.sha256(repr((_FORMAT, shrink_to)).encode())
    folders: dict[str, str] = {}
    for path in wanted:
        above, name = os.path.split(root / path)
        try:
            # Of each folder once: one call a file is what a network drive can bear.
            if above not in folders:
                folders[above] = os.path.realpath(above)
            place = os.path.join(folders[above], name)
            found = os.lstat(place)
            if stat.S_ISLNK(found.st_mode):
                place, found = os.path.realpath(place), os.stat(place)
        except OSError as error:
            raise DataError(f"{root / path}: {error.strerror}") from None
        key.update(os.fsencode(f"{path}\0{place}\0"))
        key.update(f"{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}\n".encode())
    return key.hexdigest()
