"""Crops of photographs: sizes, ranges, and what a seed fixes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from saddlescope.longtail.transforms import (
    _random_box,
    centre_crop,
    resized_crop_flip,
    shrink,
)

SIDES = st.integers(1, 700)


def ramp(width, height):
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.linspace(0, 255, width)[None, :]
    pixels[:, :, 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


@given(width=SIDES, height=SIDES, seed=st.integers(0, 2**32))
def test_a_box_lies_inside_and_has_the_shares_it_should(width, height, seed):
    left, top, w, h = _random_box(width, height, np.random.default_rng(seed))
    assert w >= 1
    assert h >= 1
    assert 0 <= left <= width - w
    assert 0 <= top <= height - h
    if min(width, height) > 100 and 3 / 4 <= width / height <= 4 / 3:
        assert 0.07 < w * h / (width * height) <= 1.0
        assert 0.7 < w / h < 1.43  # 3/4 to 4/3, rounded to pixels


def test_boxes_use_the_whole_range():
    generator = np.random.default_rng(0)
    boxes = np.array([_random_box(400, 400, generator) for _ in range(4000)])
    area = boxes[:, 2] * boxes[:, 3] / 160_000
    assert area.min() < 0.1
    assert area.max() > 0.95
    # A share a is uniform in [0.08, 1]; its box fits a square with probability
    # min(1, -log a / log(4/3)), which leaves the mean 0.3770 / 0.7890.
    assert area.mean() == pytest.approx(0.4778, abs=0.012)
    ratio = np.log(boxes[:, 2] / boxes[:, 3])
    assert ratio.mean() == pytest.approx(0.0, abs=0.02)
    assert (boxes[:, 0] == 0).mean() < 0.2


def test_an_image_too_narrow_for_any_box_gives_its_middle():
    assert _random_box(1000, 10, np.random.default_rng(0)) == (493, 0, 13, 10)


def test_crops_have_the_size_and_follow_the_generator():
    image = ramp(300, 200)
    one, two, three = (
        np.array(resized_crop_flip(image, 64, np.random.default_rng(seed))) for seed in (1, 1, 2)
    )
    assert one.shape == (64, 64, 3)
    assert (one == two).all()
    assert (one != three).any()


def test_half_of_the_crops_are_mirrored():
    image = ramp(64, 64)
    mirrored = 0
    for seed in range(400):
        pixels = np.array(resized_crop_flip(image, 32, np.random.default_rng(seed)))
        mirrored += int(pixels[16, 0, 0]) > int(pixels[16, -1, 0])
    assert 160 < mirrored < 240


def test_the_centre_crop_is_seven_eighths_of_the_shorter_side():
    pixels = np.array(centre_crop(ramp(512, 256), 224)).astype(float)
    assert pixels.shape == (224, 224, 3)
    # Columns 144 to 368 of 512, rows 16 to 240 of 256.
    assert pixels[112, 0, 0] == pytest.approx(144 / 511 * 255, abs=1)
    assert pixels[112, -1, 0] == pytest.approx(367 / 511 * 255, abs=1)
    assert pixels[0, 112, 1] == pytest.approx(16 / 255 * 255, abs=1)
    assert pixels[-1, 112, 1] == pytest.approx(239, abs=1)


def test_shrinking_keeps_the_ratio_and_small_images():
    assert shrink(ramp(400, 200), 100).size == (200, 100)
    small = ramp(80, 90)
    assert shrink(small, 100) is small
