"""Tiny CIFAR folders in the official format, and the real ones where they are at hand."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from saddlescope.longtail.cifar import CIFAR10, CIFAR100


def write_cifar(root, layout, train_labels, *, protocol=2):
    """Write an official folder; pixel (0, 0) of an image is its row in its file, modulo 256.

    Args:
        root: directory to put the folder in.
        layout: `CIFAR10` or `CIFAR100`.
        train_labels: one list of labels for each training file.
        protocol: pickle protocol.
    """
    folder = root / layout.folder
    folder.mkdir(parents=True)
    test_labels = list(range(layout.num_classes)) * 2
    names = (*layout.train_files, layout.test_file)
    for name, labels in zip(names, (*train_labels, test_labels), strict=True):
        rows = np.zeros((len(labels), 3072), np.uint8)
        rows[:, 0] = np.arange(len(labels)) % 256
        content = {b"data": rows, layout.label_key.encode(): list(labels), b"batch_label": b""}
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    class_names = [f"name{c}".encode() for c in range(layout.num_classes)]
    (folder / layout.meta_file).write_bytes(
        pickle.dumps({layout.names_key.encode(): class_names}, protocol=protocol)
    )
    return folder


@pytest.fixture
def tiny_cifar10(tmp_path):
    """A CIFAR-10 folder with five files of 3 training images, and 20 test images."""
    return write_cifar(tmp_path, CIFAR10, [[f, 9 - f, f] for f in range(5)])


@pytest.fixture(scope="module")
def cut_cifar100(tmp_path_factory):
    """A root whose CIFAR-100 folder has what IF = 500 needs of each class, file order mixed."""
    counts = [int(500 / 500 ** (c / 99) + 1e-9) for c in range(100)]
    labels = np.repeat(np.arange(100), counts)
    labels = np.random.default_rng(0).permutation(labels).tolist()
    root = tmp_path_factory.mktemp("data")
    write_cifar(root, CIFAR100, [labels])
    return root


@pytest.fixture(scope="session")
def real_root():
    """The directory with the official files (or subsets of them)."""
    root = os.environ.get("SADDLESCOPE_DATA")
    if not root or not (Path(root) / CIFAR100.folder).is_dir():
        pytest.skip("set SADDLESCOPE_DATA to a directory with the official CIFAR folders")
    return Path(root)
