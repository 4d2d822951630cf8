from pathlib import Path

import pytest
import torch

from saddlescope.errors import DataError
from saddlescope.longtail import LabelledImages, load_data
from saddlescope.longtail.files import ImageFiles


@pytest.fixture
def small():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (6, 2, 3, 4), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 2, 1, 2, 0, 2])
    return LabelledImages(images, labels, (0.5, 0.25), (0.2, 0.4))


def test_normalised_is_the_formula(small):
    expected = small.images.double() / 255
    expected = (expected - torch.tensor([0.5, 0.25]).reshape(2, 1, 1)) / torch.tensor(
        [0.2, 0.4], dtype=torch.float64
    ).reshape(2, 1, 1)
    got = small.normalised()
    assert got.dtype == torch.float32
    # three float32 roundings of numbers below 4
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-6)
    assert torch.equal(small.normalised([3, 0]), got[[3, 0]])
    assert torch.equal(small.normalise(small.images[1:2]), got[1:2])


def test_the_scale_is_the_value_of_one(small):
    sixteen = LabelledImages(small.images, small.labels, small.mean, small.std, scale=16.0)
    torch.testing.assert_close(
        sixteen.normalised()[0, 0, 0, 0], (small.images[0, 0, 0, 0].float() / 16 - 0.5) / 0.2
    )


def test_select_keeps_order_and_everything_else(small):
    part = small.select(torch.tensor([4, 1]))
    assert len(part) == 2
    assert part.labels.tolist() == [0, 2]
    assert torch.equal(part.images, small.images[[4, 1]])
    assert (part.mean, part.std, part.scale) == (small.mean, small.std, small.scale)


def test_indices_of_classes_are_ascending(small):
    assert small.indices_of((2, 0)).tolist() == [0, 1, 3, 4, 5]
    assert small.indices_of(()).tolist() == []


def test_the_checksum_is_of_pixels_labels_and_shape(small):
    again = LabelledImages(small.images.clone(), small.labels.clone(), (0.0, 0.0), (1.0, 1.0))
    assert again.checksum == small.checksum
    assert len(small.checksum) == 64
    pixels = small.images.clone()
    pixels[0, 0, 0, 0] += 1
    labels = small.labels.clone()
    labels[0] = 1
    others = [
        LabelledImages(pixels, small.labels, small.mean, small.std),
        LabelledImages(small.images, labels, small.mean, small.std),
        LabelledImages(small.images.reshape(6, 2, 4, 3), small.labels, small.mean, small.std),
    ]
    assert len({small.checksum, *(other.checksum for other in others)}) == 4


def test_wrong_kinds_are_refused(small):
    with pytest.raises(DataError, match="give uint8 of shape"):
        LabelledImages(small.images.float(), small.labels, small.mean, small.std)
    with pytest.raises(DataError, match="give uint8 of shape"):
        LabelledImages(small.images[0], small.labels, small.mean, small.std)
    with pytest.raises(DataError, match=r"give int64 of shape \(6,\)"):
        LabelledImages(small.images, small.labels[:3], small.mean, small.std)
    with pytest.raises(DataError, match="one for each of the 2 channels"):
        LabelledImages(small.images, small.labels, (0.5,), (0.5,))


def test_groups_name_every_group_once():
    data = load_data("digits", imbalance_factor=20)
    assert list(data.groups) == ["all", "head", "tail", "many", "medium", "few"]
    assert data.groups["head"] + data.groups["tail"] == data.groups["all"]
    assert sum(data.shots.values(), ()) == data.groups["all"]
    assert (data.num_classes, data.in_channels) == (10, 1)


def test_moving_a_data_set_keeps_its_content():
    data = load_data("digits", imbalance_factor=20)
    moved = data.to("cpu")
    assert moved.checksum == data.checksum
    assert moved.groups == data.groups


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_content_and_normalisation_are_the_same_on_the_gpu(small):
    moved = small.to("cuda")
    assert moved.checksum == small.checksum
    assert moved.indices_of((0,)).tolist() == [0, 4]
    torch.testing.assert_close(moved.normalised([1, 2]).cpu(), small.normalised([1, 2]))


def test_weights_of_samples_are_in_the_checksum():
    """A run that is resumed with other weights would minimise another loss."""
    images, labels = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 1])

    def checksum(weights):
        given = None if weights is None else torch.tensor(weights)
        made = LabelledImages(images, labels, (0.0,), (1.0,), sample_weights=given)
        files = ImageFiles(Path(), ("a", "b", "c"), labels, sample_weights=given)
        return made.checksum, files.checksum

    seen = [checksum(weights) for weights in (None, [1.0, 1.0, 1.0], [1.0, 1.0, 50.0])]
    for kind in zip(*seen, strict=True):
        assert len(set(kind)) == 3
