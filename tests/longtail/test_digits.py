import torch

from saddlescope.longtail.digits import LARGEST, TEST_PER_CLASS, load_digits


def test_the_test_split_is_balanced_and_the_rest_is_training():
    source = load_digits()
    assert torch.bincount(source.test.labels).tolist() == [TEST_PER_CLASS] * 10
    assert torch.bincount(source.train.labels).min().item() == LARGEST
    assert len(source.train) + len(source.test) == 1797
    assert source.official_rows == len(source.train)


def test_no_test_image_is_in_the_training_set():
    source = load_digits()
    train = {bytes(image.flatten().tolist()) for image in source.train.images}
    test = {bytes(image.flatten().tolist()) for image in source.test.images}
    assert not train & test


def test_values_are_sixteenths_with_the_stated_mean_and_deviation():
    source = load_digits()
    assert source.train.images.shape[1:] == (1, 8, 8)
    assert source.train.images.max().item() == source.train.scale == 16
    every = torch.cat([source.train.normalised(), source.test.normalised()])
    assert abs(every.mean().item()) < 1e-3
    assert abs(every.std().item() - 1) < 1e-3


def test_the_split_is_the_same_every_time_and_on_every_machine():
    assert load_digits().test.checksum == load_digits().test.checksum
    assert load_digits().test.checksum.startswith("6ac11621ea8d7059")
