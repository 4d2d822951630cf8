"""Images that an epoch visits several times, as class-balanced sampling does."""

import numpy as np
import pytest
import torch

from saddlescope.longtail import Augmentation
from saddlescope.longtail.files import decode
from saddlescope.longtail.transforms import resized_crop_flip
from tests.longtail.pictures import write_lists, write_noise
from tests.longtail.test_files import load


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return write_lists(tmp_path_factory.mktemp("noise"), [6, 4, 2], write=write_noise)


ORDER = torch.tensor([11, 3, 11, 0, 11, 3, 5, 11, 0, 1])
"""What class-balanced sampling may draw: image 11 four times, 3 and 0 twice."""


def drawn(data, *, seed=7, before=0, **options):
    augmentation = Augmentation(seed)
    augmentation.before = ORDER[:before]
    parts = ORDER[before:].split(4)
    return torch.cat(list(data.train.batches(parts, augmentation=augmentation, **options)))


def test_an_image_drawn_again_in_an_epoch_is_another_crop(noise):
    data = load(noise)
    images = drawn(data)
    once = next(data.train.batches([torch.arange(12)], augmentation=Augmentation(7)))
    assert len(torch.unique(images, dim=0)) == len(ORDER)
    assert len(torch.unique(once, dim=0)) == len(once)
    first = [0, 1, 3, 6, 9]  # where each image stands for the first time: as if it stood once
    assert torch.equal(images[first], once[ORDER[first]])
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.train.mean, data.train.std))
    for place, visit in ((0, ()), (2, (1,)), (4, (2,)), (7, (3,))):  # of image 11
        whole = decode(noise / data.train.paths[11], shrink_to=None)
        crop = resized_crop_flip(whole, 16, np.random.default_rng((7, 11, *visit)))
        pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 255
        torch.testing.assert_close(images[place], (pixels - mean) / std)
    other = drawn(data, seed=8)
    assert not any(torch.equal(one, two) for one, two in zip(images, other, strict=True))
    assert list(data.train.batches([], augmentation=Augmentation(7))) == []


@pytest.mark.parametrize("before", [1, 3, 4, 8])
def test_an_image_drawn_again_is_the_same_wherever_the_epoch_was_cut(noise, before):
    data = load(noise)
    assert torch.equal(drawn(data, before=before), drawn(data)[before:])


def test_an_image_drawn_again_is_the_same_on_whatever_rank(noise):
    """The ranks' shares of batches of 4, 4 and 2, put together again."""
    data = load(noise)
    one = drawn(data, mine=lambda count: slice(0, count // 2))
    two = drawn(data, mine=lambda count: slice(count // 2, count))
    whole = [part for pair in zip(one.split(2), two.split(2), strict=True) for part in pair]
    assert torch.equal(torch.cat(whole), drawn(data))


@pytest.mark.slow
def test_an_image_drawn_again_is_the_same_whoever_decodes(noise):
    assert torch.equal(drawn(load(noise, workers=2)), drawn(load(noise)))
