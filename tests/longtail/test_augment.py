import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saddlescope.errors import UsageError
from saddlescope.longtail import pad_crop_flip


def slow(images, generator, *, padding, flip):
    """One image at a time, with slices."""
    batch, channels, height, width = images.shape
    offsets = torch.randint(2 * padding + 1, (2, batch), generator=generator).tolist()
    flips = torch.randint(2, (batch,), generator=generator).tolist() if flip else [0] * batch
    result = []
    for image, top, left, mirrored in zip(images, *offsets, flips, strict=True):
        canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding).to(image)
        canvas[:, padding : padding + height, padding : padding + width] = image
        crop = canvas[:, top : top + height, left : left + width]
        result.append(crop.flip(-1) if mirrored else crop)
    return torch.stack(result)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (5, 3, 7, 6))),
    padding=st.integers(0, 4),
    flip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_batch_is_what_a_loop_makes(shape, padding, flip, seed):
    images = torch.randint(256, shape, generator=seeded(seed), dtype=torch.uint8)
    got = pad_crop_flip(images, seeded(seed + 1), padding=padding, flip=flip)
    assert got.dtype == torch.uint8
    assert torch.equal(got, slow(images, seeded(seed + 1), padding=padding, flip=flip))


def test_no_padding_and_no_flip_is_a_copy():
    images = torch.randint(256, (4, 3, 5, 5), generator=seeded(0), dtype=torch.uint8)
    got = pad_crop_flip(images, seeded(1), padding=0, flip=False)
    assert torch.equal(got, images)
    assert got.data_ptr() != images.data_ptr()


def test_every_offset_and_both_sides_occur_about_equally():
    images = torch.zeros(20_000, 1, 3, 3, dtype=torch.uint8)
    images[:, 0, 1, 0] = 1
    got = pad_crop_flip(images, seeded(0), padding=1)
    # Shifted by -1, 0 or 1 the mark is seen in each row a third of the time.
    rows = got.sum((1, 3)).double().mean(0)
    # The left column's mark leaves the image on one shift in three.
    assert got.sum().item() / 20_000 == pytest.approx(2 / 3, abs=0.02)
    torch.testing.assert_close(rows, torch.full((3,), 2 / 9).double(), rtol=0, atol=0.02)
    columns = got.sum((1, 2)).double().mean(0)
    expected = torch.tensor([1 / 6, 1 / 3, 1 / 6]).double()
    torch.testing.assert_close(columns, expected, rtol=0, atol=0.02)


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    pad_crop_flip(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), seeded(0))
    assert torch.equal(before, torch.get_rng_state())


def test_a_negative_padding_is_refused():
    with pytest.raises(UsageError, match="padding=-1"):
        pad_crop_flip(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), seeded(0), padding=-1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_makes_the_same_images():
    images = torch.randint(256, (64, 3, 32, 32), generator=seeded(0), dtype=torch.uint8)
    on_gpu = pad_crop_flip(images.cuda(), seeded(1))
    assert torch.equal(on_gpu.cpu(), pad_crop_flip(images, seeded(1)))
