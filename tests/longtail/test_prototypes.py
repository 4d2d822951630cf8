import torch

from saddlescope.longtail.prototypes import LARGEST, TEST_PER_CLASS, load_prototypes


def test_both_splits_are_balanced_and_every_class_is_there():
    source = load_prototypes()
    assert torch.bincount(source.train.labels).tolist() == [LARGEST] * 10
    assert torch.bincount(source.test.labels).tolist() == [TEST_PER_CLASS] * 10
    assert source.official_rows == len(source.train)
    assert len(source.class_names) == 10


def test_the_set_is_the_same_every_time_and_on_every_machine():
    assert load_prototypes().train.checksum == load_prototypes().train.checksum
    assert load_prototypes().train.checksum.startswith("d23dc399127f89e8")


def test_the_nearest_class_mean_is_the_class():
    source = load_prototypes()
    train, test = source.train.normalised().flatten(1), source.test.normalised().flatten(1)
    means = torch.stack([train[source.train.labels == c].mean(0) for c in range(10)])
    assert torch.equal(torch.cdist(test, means).argmin(1), source.test.labels)
