import pickle

import numpy as np
import pytest

from saddlescope.errors import DataError
from saddlescope.longtail import load_data
from saddlescope.longtail.cifar import CIFAR10, CIFAR100, load_cifar
from tests.longtail.conftest import write_cifar


def rewrite(path, **changes):
    content = pickle.loads(path.read_bytes(), encoding="bytes")
    content |= {key.encode(): value for key, value in changes.items()}
    content = {key: value for key, value in content.items() if value is not None}
    path.write_bytes(pickle.dumps(content, protocol=2))


def test_files_are_joined_in_order(tiny_cifar10):
    source = load_cifar(CIFAR10, tiny_cifar10.parent)
    assert source.train.images.shape == (15, 3, 32, 32)
    assert source.train.labels.tolist() == [0, 9, 0, 1, 8, 1, 2, 7, 2, 3, 6, 3, 4, 5, 4]
    assert source.train.images[:, 0, 0, 0].tolist() == [0, 1, 2] * 5
    assert len(source.test) == 20
    assert source.class_names == tuple(f"name{c}" for c in range(10))
    assert source.official_rows == 50_000


def test_the_root_may_be_the_folder_itself(tiny_cifar10):
    assert len(load_cifar(CIFAR10, tiny_cifar10).train) == 15


def test_pixels_are_planes_of_rows(tiny_cifar10):
    rows = np.arange(3 * 3072, dtype=np.uint32).astype(np.uint8).reshape(3, 3072)
    rewrite(tiny_cifar10 / "data_batch_1", data=rows)
    images = load_cifar(CIFAR10, tiny_cifar10).train.images
    assert images[1, 2, 5, 7].item() == rows[1, 2 * 1024 + 5 * 32 + 7]


def test_cifar100_takes_the_fine_labels(tmp_path):
    folder = write_cifar(tmp_path, CIFAR100, [[99, 0, 42]])
    rewrite(folder / "train", coarse_labels=[1, 2, 3])
    assert load_cifar(CIFAR100, tmp_path).train.labels.tolist() == [99, 0, 42]


def test_labels_may_be_an_array(tiny_cifar10):
    rewrite(tiny_cifar10 / "data_batch_2", labels=np.array([3, 4, 5]))
    assert load_cifar(CIFAR10, tiny_cifar10).train.labels[3:6].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 10, 0]}, r"labels\[1\] is 10, outside 0 to 9"),
        ({"labels": [0, 0, -1]}, r"labels\[2\] is -1, outside 0 to 9"),
        ({"labels": [0, 1]}, "3 images but 2 labels"),
        ({"labels": [0, 1.5, 2]}, "labels is not a list of integers"),
        ({"labels": "012"}, "labels is not a list of integers"),
        ({"labels": None}, "no entry 'labels'"),
        ({"data": None}, "no entry 'data'"),
        ({"data": [1, 2, 3]}, "data is list, expected a uint8 array"),
        ({"data": np.zeros((3, 3072), np.float32)}, "data is float32, expected a uint8 array"),
        ({"data": np.zeros((3, 3071), np.uint8)}, r"data has shape \(3, 3071\)"),
        ({"data": np.zeros((0, 3072), np.uint8), "labels": []}, r"data has shape \(0, 3072\)"),
        ({"data": np.zeros(3072, np.uint8)}, r"data has shape \(3072,\)"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(tiny_cifar10, changes, message):
    rewrite(tiny_cifar10 / "data_batch_3", **changes)
    with pytest.raises(DataError, match=f"data_batch_3: {message}"):
        load_cifar(CIFAR10, tiny_cifar10)


@pytest.mark.parametrize("name", ["data_batch_4", "test_batch", "batches.meta"])
def test_a_missing_or_cut_file_is_named(tiny_cifar10, name):
    path = tiny_cifar10 / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{name}: not a complete pickle"):
        load_cifar(CIFAR10, tiny_cifar10.parent)
    path.unlink()
    with pytest.raises(DataError, match=f"{name}: missing"):
        load_cifar(CIFAR10, tiny_cifar10.parent)


@pytest.mark.parametrize("names", [[b"a"] * 9, [1] * 10, b"abc"])
def test_wrong_class_names_are_refused(tiny_cifar10, names):
    rewrite(tiny_cifar10 / "batches.meta", label_names=names)
    with pytest.raises(DataError, match=r"batches\.meta: label_names"):
        load_cifar(CIFAR10, tiny_cifar10)


def test_a_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no cifar-10-batches-py there; pass --data-root DIR"):
        load_cifar(CIFAR10, tmp_path)
    with pytest.raises(DataError, match=r"no data directory given; .* SADDLESCOPE_DATA=DIR"):
        load_cifar(CIFAR10, None)


@pytest.mark.parametrize(
    ("name", "factor", "total"),
    [("cifar100", 100, 10_847), ("cifar100", 50, 12_608), ("cifar10", 100, 12_406)],
)
def test_the_real_files_give_the_papers_training_sets(real_root, name, factor, total):
    data = load_data(name, root=real_root, imbalance_factor=factor)
    assert len(data.train) == sum(data.counts) == total
    assert data.train.labels.bincount().tolist() == list(data.counts)
    assert data.test.labels.bincount().unique().numel() == 1
    assert data.class_names[0] == {"cifar10": "airplane", "cifar100": "apple"}[name]
