import pytest
import torch

from saddlescope.errors import DataError, UsageError
from saddlescope.longtail import DATASETS, Cut, Thresholds, load_data


def test_digits_at_20_have_the_documented_groups():
    data = load_data("digits", imbalance_factor=20)
    assert data.counts == (130, 93, 66, 47, 34, 24, 17, 12, 9, 6)
    assert len(data.train) == 438
    assert data.train.labels.bincount().tolist() == list(data.counts)
    assert data.groups["tail"] == (5, 6, 7, 8, 9)
    assert [len(c) for c in data.shots.values()] == [3, 4, 3]


def test_the_test_set_does_not_depend_on_the_imbalance():
    first = load_data("digits", imbalance_factor=20)
    other = load_data("digits", imbalance_factor=10, cut=Cut("step", "shuffled"))
    assert first.test.checksum == other.test.checksum
    assert first.train.checksum != other.train.checksum
    assert first.checksum != other.checksum


def test_a_seed_of_shuffled_is_reproducible():
    cuts = (Cut(subset="shuffled", subset_seed=seed) for seed in (0, 0, 1))
    checksums = [load_data("digits", imbalance_factor=20, cut=cut).train.checksum for cut in cuts]
    assert checksums[0] == checksums[1] != checksums[2]


def test_thresholds_can_be_given():
    data = load_data("digits", imbalance_factor=20, thresholds=Thresholds(10, 100, 10))
    assert data.groups["tail"] == data.groups["few"] == (8, 9)
    assert data.groups["many"] == (0,)


def test_cifar_takes_the_first_of_each_class_from_a_cut_folder(cut_cifar100, monkeypatch):
    data = load_data("cifar100", root=cut_cifar100, imbalance_factor=500)
    monkeypatch.setenv("SADDLESCOPE_DATA", str(cut_cifar100))
    half = load_data("cifar100", imbalance_factor=500)
    assert half.checksum == data.checksum
    assert (len(data.train), data.in_channels, data.num_classes) == (sum(data.counts), 3, 100)
    assert data.counts[0] == 500
    assert data.counts[99] == 1
    assert torch.equal(data.train.labels.bincount(), torch.tensor(data.counts))


def test_shuffled_needs_the_full_official_files(cut_cifar100):
    with pytest.raises(DataError, match="cifar100: subset 'shuffled' draws from all 50,000"):
        load_data("cifar100", root=cut_cifar100, imbalance_factor=500, cut=Cut(subset="shuffled"))


def test_a_cut_folder_that_is_too_small_names_class_have_and_need(cut_cifar100):
    with pytest.raises(DataError, match=r"imbalance_factor=100: class 1 has \d+ images, 477 are"):
        load_data("cifar100", root=cut_cifar100, imbalance_factor=100)


def test_no_root_says_where_to_put_it(monkeypatch):
    monkeypatch.delenv("SADDLESCOPE_DATA", raising=False)
    with pytest.raises(DataError, match="pass --data-root DIR or set SADDLESCOPE_DATA"):
        load_data("cifar10", imbalance_factor=100)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar-100", {}, r"unknown data set 'cifar-100': did you mean 'cifar100'\?"),
        ("imagenet", {}, "choose from digits, prototypes, cifar10, cifar100"),
        ("digits", {"thresholds": Thresholds(5, 60, 15)}, "choose from 7 to 130"),
        ("digits", {"imbalance_factor": 1}, "raise imbalance_factor"),
        ("digits", {"imbalance_factor": 200}, "class 9 would have no image"),
        ("digits", {"thresholds": Thresholds(30, 60, 100)}, "overlap"),
        ("cifar10", {"cut": Cut("linear")}, "unknown profile"),
        ("inaturalist2018", {"cut": Cut("step"), "imbalance_factor": None}, "long-tailed as it is"),
    ],
)
def test_a_wrong_option_is_reported_before_any_file_is_read(name, options, message, monkeypatch):
    monkeypatch.delenv("SADDLESCOPE_DATA", raising=False)
    with pytest.raises(UsageError, match=message):
        load_data(name, **{"imbalance_factor": 20, **options})


@pytest.mark.parametrize(("name", "factor"), [("digits", 20), ("cifar10", 100), ("cifar100", 100)])
def test_default_thresholds_part_head_from_tail(name, factor):
    spec = DATASETS[name]
    assert spec.largest / factor < spec.thresholds.tail_threshold <= spec.largest
    assert spec.thresholds.few_below <= spec.thresholds.many_above
