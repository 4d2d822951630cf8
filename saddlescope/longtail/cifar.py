"""CIFAR-10 and CIFAR-100 from the official "python version" folders.

Krizhevsky, "Learning multiple layers of features from tiny images" (2009),
https://www.cs.toronto.edu/~kriz/cifar.html: pickled dictionaries with `data`, uint8 rows of
3,072 pixels (red, green, blue planes of 32x32), and a list of labels. Files with fewer rows
than the official ones are read too. Channel mean and standard deviation are those of the
paper's released code, for both sets.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from saddlescope.errors import DataError
from saddlescope.longtail.datasets import LabelledImages, SourceData
from saddlescope.longtail.pickles import read_pickle

_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2023, 0.1994, 0.2010)
_ROW = 3 * 32 * 32
# Protocol 2 written by Python 3 stores bytes as UTF-8 text, so a pixel can take two bytes.
_BYTES_A_ROW = 2 * _ROW + 400
_BYTES_BESIDES = 1 << 20


@dataclass(frozen=True)
class CifarLayout:
    """Names and sizes in one official folder."""

    folder: str
    train_files: tuple[str, ...]
    train_rows: int  # of each file
    test_file: str
    label_key: str
    meta_file: str
    names_key: str
    num_classes: int


CIFAR10 = CifarLayout(
    folder="cifar-10-batches-py",
    train_files=tuple(f"data_batch_{i}" for i in range(1, 6)),
    train_rows=10_000,
    test_file="test_batch",
    label_key="labels",
    meta_file="batches.meta",
    names_key="label_names",
    num_classes=10,
)
CIFAR100 = CifarLayout(
    folder="cifar-100-python",
    train_files=("train",),
    train_rows=50_000,
    test_file="test",
    label_key="fine_labels",
    meta_file="meta",
    names_key="fine_label_names",
    num_classes=100,
)
_TEST_ROWS = 10_000


def load_cifar(layout: CifarLayout, root: Path | None) -> SourceData:
    """Load one of the two sets.

    Args:
        layout: `CIFAR10` or `CIFAR100`.
        root: the directory that holds the official folder, or that folder itself.

    Returns:
        Images of shape (N, 3, 32, 32) in file order.

    Raises:
        DataError: a folder or file that is missing, or a file that is not the official kind.
    """
    folder = find_folder(layout, root)
    parts = [_read_split(folder / name, layout, layout.train_rows) for name in layout.train_files]
    return SourceData(
        train=_labelled(
            np.concatenate([p for p, _ in parts]), np.concatenate([q for _, q in parts])
        ),
        test=_labelled(*_read_split(folder / layout.test_file, layout, _TEST_ROWS)),
        class_names=_read_names(folder / layout.meta_file, layout),
        official_rows=layout.train_rows * len(layout.train_files),
    )


def find_folder(layout: CifarLayout, root: Path | None) -> Path:
    """Return the official folder under `root`, or `root` itself where it is that folder.

    Raises:
        DataError: no root given, or nothing there; the message says what is expected.
    """
    advice = (
        f"pass --data-root DIR or set SADDLESCOPE_DATA=DIR, where DIR holds the official "
        f"folder {layout.folder}"
    )
    if root is None:
        raise DataError(f"{layout.folder}: no data directory given; {advice}")
    if (root / layout.folder).is_dir():
        return root / layout.folder
    if root.name == layout.folder or (root / layout.meta_file).is_file():
        return root
    raise DataError(f"{root}: no {layout.folder} there; {advice}")


def _read_split(
    path: Path, layout: CifarLayout, max_rows: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Pixels (n, 3072) uint8 and labels (n,) int64 of one file."""
    content = read_pickle(path, max_bytes=max_rows * _BYTES_A_ROW + _BYTES_BESIDES)
    pixels = _entry(path, content, "data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        kind = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{path}: data is {kind}, expected a uint8 array")
    if pixels.ndim != 2 or pixels.shape[1] != _ROW or not 1 <= len(pixels) <= max_rows:
        raise DataError(
            f"{path}: data has shape {pixels.shape}, expected (n, {_ROW}) with n from 1 to "
            f"{max_rows}"
        )
    labels = _labels(path, layout, _entry(path, content, layout.label_key))
    if len(labels) != len(pixels):
        raise DataError(f"{path}: {len(pixels)} images but {len(labels)} {layout.label_key}")
    return pixels, labels


def _labels(path: Path, layout: CifarLayout, entry: object) -> npt.NDArray[np.int64]:
    is_list = isinstance(entry, list) and all(type(label) is int for label in entry)
    is_vector = isinstance(entry, np.ndarray) and entry.ndim == 1 and entry.dtype.kind in "iu"
    if not (is_list or is_vector):
        raise DataError(f"{path}: {layout.label_key} is not a list of integers")
    values = list(entry)  # type: ignore[call-overload]
    for row, label in enumerate(values):
        if not 0 <= label < layout.num_classes:
            raise DataError(
                f"{path}: {layout.label_key}[{row}] is {label}, outside 0 to "
                f"{layout.num_classes - 1}"
            )
    return np.array(values, dtype=np.int64)


def _read_names(path: Path, layout: CifarLayout) -> tuple[str, ...]:
    names = _entry(path, read_pickle(path, max_bytes=_BYTES_BESIDES), layout.names_key)
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise DataError(f"{path}: {layout.names_key} is not a list of names")
    if len(names) != layout.num_classes:
        raise DataError(
            f"{path}: {layout.names_key} has {len(names)} names, expected {layout.num_classes}"
        )
    return tuple(n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names)


def _entry(path: Path, content: dict[str, Any], key: str) -> Any:
    if key not in content:
        found = sorted(content)[:8]
        raise DataError(f"{path}: no entry {key!r} (found {found}); is it from the right set?")
    return content[key]


def _labelled(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> LabelledImages:
    # A copy: the arrays of one file are read-only views of its bytes.
    images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
    return LabelledImages(images, torch.from_numpy(labels), _MEAN, _STD)
