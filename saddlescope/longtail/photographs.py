"""Sets of image files: ImageNet-LT, iNaturalist 2018, anybody's list files, anybody's folders.

ImageNet-LT and its list files: Liu et al., "Large-scale long-tailed recognition in an open world"
(CVPR 2019). iNaturalist 2018: Van Horn et al., "The iNaturalist species classification and
detection dataset" (CVPR 2018). Mean and standard deviation of the channels are ImageNet's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from saddlescope.errors import DataError, UsageError
from saddlescope.longtail.cache import cached
from saddlescope.longtail.datasets import SourceData
from saddlescope.longtail.files import ImageFiles, decode_all
from saddlescope.longtail.lists import Listing, read_folder, read_list

USUAL_SIZE = 224


@dataclass(frozen=True)
class FileOptions:
    """How image files are read.

    Attributes:
        train_list, test_list: list files; None takes the set's own names.
        image_size: height and width of what is given out; None is `USUAL_SIZE`.
        shrink_to: shorter side that larger images are reduced to first; None keeps them.
        workers: processes that decode; 0 decodes in this one. Changes no number.
        cache: folder of decoded images; None decodes each time. Changes no number.
        report: told what takes long.
    """

    train_list: str | None = None
    test_list: str | None = None
    image_size: int | None = None
    shrink_to: int | None = None
    workers: int = 0
    cache: Path | None = None
    report: Callable[[str], None] = lambda _: None

    def given(self) -> list[str]:
        """Return the recipe keys of these that are not None."""
        keys = ("train_list", "test_list", "image_size", "shrink_to")
        return [key for key in keys if getattr(self, key) is not None]


def load_lists(
    root: Path | None,
    options: FileOptions,
    *,
    train_list: str | None = None,
    test_list: str | None = None,
    num_classes: int | None = None,
) -> SourceData:
    """Load a set that two list files describe.

    Args:
        root: folder of the images; list files are looked for there unless their path is absolute.
        options: how files are read.
        train_list: name of the training list where the options have none.
        test_list: the same of the test list.
        num_classes: how many classes there must be; None takes what the training list has.

    Raises:
        UsageError: no list files named.
        DataError: a folder, list file or line that is not what it should be.
    """
    if root is None:
        raise DataError("no image folder given; pass --data-root DIR or set SADDLESCOPE_DATA=DIR")
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --data-root is where the images are")
    named = (options.train_list or train_list, options.test_list or test_list)
    if None in named:
        raise UsageError(
            "set data.train_list and data.test_list to two files of `path label` lines"
        )
    train, test = (read_list(root / str(name), root=root) for name in named)
    found = max(train.labels) + 1
    if num_classes is not None and found != num_classes:
        raise DataError(f"{root / str(named[0])}: {found} classes, expected {num_classes}")
    # Before anything is as long as the largest label: a list may name any number.
    there = set(train.labels)
    if len(there) < found:
        gap = next(number for number in range(found) if number not in there)
        raise DataError(
            f"{root / str(named[0])}: class {gap} has no training image; labels must run from 0 to "
            f"{found - 1} without a gap"
        )
    if max(test.labels) >= found:
        raise DataError(
            f"{root / str(named[1])}: label {max(test.labels)}, but the training list has classes "
            f"0 to {found - 1}"
        )
    return _source(train, test, tuple(str(number) for number in range(found)), options)


def load_folders(root: Path | None, options: FileOptions) -> SourceData:
    """Load a set of which `train` and `test` (or `val`) hold one folder a class.

    Raises:
        DataError: folders or images that are missing.
        UsageError: list files named, which such a set has not.
    """
    if root is None:
        raise DataError("no image folder given; pass --data-root DIR or set SADDLESCOPE_DATA=DIR")
    if options.train_list or options.test_list:
        raise UsageError("data.train_list and data.test_list go with data set 'list'")
    train, names = read_folder(root / "train", report=options.report)
    of_test = root / "test" if (root / "test").is_dir() else root / "val"
    test, _ = read_folder(of_test, classes=names, report=options.report)
    return _source(train, test, names, options)


def _source(
    train: Listing, test: Listing, names: tuple[str, ...], options: FileOptions
) -> SourceData:
    _refuse_missing(train)
    _refuse_missing(test)
    untested = sorted(set(range(len(names))) - set(test.labels))
    if untested:
        options.report(
            f"no test image of {len(untested)} of {len(names)} classes (first: {untested[0]}): "
            "accuracies are means over the other classes"
        )
    return SourceData(
        train=_files(train, options),
        test=_files(test, options),
        class_names=names,
        official_rows=len(train.paths),
    )


def _refuse_missing(listing: Listing) -> None:
    """The first image stands for all: looking at each would take minutes on a network drive."""
    first = listing.root / listing.paths[0]
    if not first.is_file():
        raise DataError(
            f"{first}: no such image; --data-root must be what the list's paths start at"
        )


def _files(listing: Listing, options: FileOptions) -> ImageFiles:
    store = None
    if options.cache is not None:
        store = cached(
            options.cache,
            root=listing.root,
            paths=listing.paths,
            shrink_to=options.shrink_to,
            read=partial(
                decode_all, listing.root, shrink_to=options.shrink_to, workers=options.workers
            ),
            report=options.report,
        )
    weights = listing.weights
    return ImageFiles(
        root=listing.root,
        paths=listing.paths,
        labels=torch.tensor(listing.labels, dtype=torch.int64),
        size=options.image_size or USUAL_SIZE,
        shrink_to=options.shrink_to,
        sample_weights=None if weights is None else torch.tensor(weights, dtype=torch.float32),
        workers=options.workers,
        cache=store,
    )
