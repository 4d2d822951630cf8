"""Data sets by name, from the source to the long-tailed training set with its groups.

The defaults are those of the paper's released code. Its README gives CIFAR-100's tail threshold,
100; CIFAR-10's is stated nowhere and is taken to be the same, which makes classes 8 and 9 the tail
at IF = 100; so is that of the sets of image files. The digits' thresholds are chosen here for
IF = 20: half of the classes are tail, and the shots are 3, 4 and 3 classes as in CIFAR-10.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import torch

from saddlescope.errors import DataError, UsageError, unknown
from saddlescope.longtail import digits, prototypes
from saddlescope.longtail.cifar import CIFAR10, CIFAR100, load_cifar
from saddlescope.longtail.datasets import LongTailData, SourceData
from saddlescope.longtail.photographs import FileOptions, load_folders, load_lists
from saddlescope.longtail.profiles import class_counts
from saddlescope.longtail.splits import Thresholds
from saddlescope.longtail.subsets import Cut, choose_subset

ROOT_VARIABLE: Final = "SADDLESCOPE_DATA"
"""Environment variable with the directory of the data sets, used where no root is given."""


@dataclass(frozen=True)
class DatasetSpec:
    """The record of a data set: all that is fixed for it.

    Attributes:
        title: name to print.
        load: from a data directory (or None) to everything that is there.
        thresholds: where its classes are parted.
        needs_root: whether files outside the package are read.
        num_classes: number of classes; None where only the files say.
        largest: training images of class 0 under a profile; None takes as many as every class has.
        imbalance_factor: largest over smallest class where none is asked for; None takes every
            image there is.
        images: training images of the complete set, where it is long-tailed as it is.
        in_files: whether images stay in files, decoded when needed.
    """

    title: str
    load: Callable[[Path | None, FileOptions], SourceData]
    thresholds: Thresholds = field(default_factory=Thresholds)
    needs_root: bool = True
    num_classes: int | None = None
    largest: int | None = None
    imbalance_factor: float | None = None
    images: int | None = None
    in_files: bool = False


DATASETS: Final[Mapping[str, DatasetSpec]] = {
    "digits": DatasetSpec(
        title="Digits-LT",
        num_classes=10,
        largest=digits.LARGEST,
        imbalance_factor=20.0,
        thresholds=Thresholds(30, 60, 15),
        needs_root=False,
        load=lambda _root, _options: digits.load_digits(),
    ),
    "prototypes": DatasetSpec(
        title="Prototypes-LT",
        num_classes=10,
        largest=prototypes.LARGEST,
        imbalance_factor=20.0,
        thresholds=Thresholds(30, 50, 15),
        needs_root=False,
        load=lambda _root, _options: prototypes.load_prototypes(),
    ),
    "cifar10": DatasetSpec(
        title="CIFAR-10-LT",
        num_classes=10,
        largest=5000,
        imbalance_factor=100.0,
        thresholds=Thresholds(100, 1000, 200),
        load=lambda root, _options: load_cifar(CIFAR10, root),
    ),
    "cifar100": DatasetSpec(
        title="CIFAR-100-LT",
        num_classes=100,
        largest=500,
        imbalance_factor=100.0,
        load=lambda root, _options: load_cifar(CIFAR100, root),
    ),
    "imagenet-lt": DatasetSpec(
        title="ImageNet-LT",
        num_classes=1000,
        images=115_846,
        load=partial(
            load_lists,
            train_list="ImageNet_LT_train.txt",
            test_list="ImageNet_LT_test.txt",
            num_classes=1000,
        ),
        in_files=True,
    ),
    "inaturalist2018": DatasetSpec(
        title="iNaturalist 2018",
        num_classes=8142,
        images=437_513,
        load=partial(
            load_lists,
            train_list="iNaturalist18_train.txt",
            test_list="iNaturalist18_val.txt",
            num_classes=8142,
        ),
        in_files=True,
    ),
    "list": DatasetSpec(
        title="List",
        load=load_lists,
        in_files=True,
    ),
    "folder": DatasetSpec(
        title="Folder",
        load=load_folders,
        in_files=True,
    ),
}
"""Name to specification."""


def load_data(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    imbalance_factor: float | None = None,
    cut: Cut | None = None,
    thresholds: Thresholds | None = None,
    files: FileOptions | None = None,
) -> LongTailData:
    """Load a data set and cut its long tail; on the CPU.

    Args:
        name: a key of `DATASETS`.
        root: directory of the data sets; by default the environment's `SADDLESCOPE_DATA`.
        imbalance_factor: largest over smallest class, at least 1; None is the set's usual one, of
            a set that is long-tailed as it is every image there is.
        cut: how the tail is cut; None is an exponential profile of each class's first images.
        thresholds: of head and tail and of the shots; None takes the set's.
        files: how image files are read.

    Raises:
        UsageError: an unknown name or an argument that cannot be meant.
        DataError: files that are missing or broken, or too few images for what was asked.
    """
    spec, files, cut = dataset_spec(name), files or FileOptions(), cut or Cut()
    thresholds = thresholds or spec.thresholds
    if not spec.in_files and (wrong := files.given()):
        raise UsageError(f"data.{wrong[0]} is for sets of image files; {name} is none")
    factor = spec.imbalance_factor if imbalance_factor is None else imbalance_factor
    if factor is None and cut != Cut():
        raise UsageError(
            f"{name} is long-tailed as it is: profile and subset say how a tail is cut, and "
            "without an imbalance factor none is"
        )
    counts = None
    if spec.num_classes and spec.largest and factor is not None:
        counts = class_counts(
            num_classes=spec.num_classes,
            largest=spec.largest,
            imbalance_factor=factor,
            profile=cut.profile,
        )
        thresholds.groups(counts)  # before the files are read: a wrong option is said at once
    source = spec.load(_directory(root), files)
    available = len(source.train)
    if cut.subset == "shuffled" and available < source.official_rows:
        raise DataError(
            f"{name}: subset 'shuffled' draws from all {source.official_rows:,} training images, "
            f"here are {available:,}; use the full official files or subset 'first'"
        )
    if counts is None:
        counts = _counts_there(source, factor, cut.profile)
        thresholds.groups(counts)
    if factor is None:
        train = source.train
    else:
        labels = source.train.labels.numpy()
        try:
            kept = choose_subset(labels, counts, cut)
        except DataError as error:
            raise DataError(f"{name} with imbalance_factor={factor}: {error}") from None
        train = source.train.select(torch.from_numpy(kept))
    return LongTailData(
        name=name,
        train=train,
        test=source.test,
        class_names=source.class_names,
        counts=counts,
        thresholds=thresholds,
        imbalance_factor=factor,
        cut=cut,
    )


def _counts_there(source: SourceData, factor: float | None, profile: str) -> tuple[int, ...]:
    """Of each class: all images there are, or a profile that every class has enough for."""
    there = torch.bincount(source.train.labels, minlength=len(source.class_names))
    if factor is None:
        return tuple(there.tolist())
    return class_counts(
        num_classes=len(there),
        largest=int(there.min()),
        imbalance_factor=factor,
        profile=profile,
    )


def dataset_spec(name: str) -> DatasetSpec:
    """Return the specification of a data set.

    Raises:
        UsageError: an unknown name; says the nearest one.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    return DATASETS[name]


def _directory(root: str | os.PathLike[str] | None) -> Path | None:
    chosen = root or os.environ.get(ROOT_VARIABLE)
    return Path(chosen).expanduser() if chosen else None
