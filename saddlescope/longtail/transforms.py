"""Crops of photographs of any size, one image at a time: what worker processes do after decoding.

The random resized crop is that of Szegedy et al., "Going deeper with convolutions" (CVPR 2015),
with the numbers every ImageNet recipe uses: a share of 8 % to 100 % of the area, an aspect ratio of
3/4 to 4/3, mirrored with probability 1/2. Random numbers come from a generator a sample, so neither
the number of workers nor an interruption changes an image.
"""

import math

import numpy as np
from PIL import Image

_AREA = (0.08, 1.0)
_RATIO = (3.0 / 4.0, 4.0 / 3.0)
_TRIES = 10
_CENTRE_SHARE = 224 / 256
"""Of the shorter side, what the centre crop of evaluation keeps."""


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with its shorter side reduced to `side` pixels; a smaller one is left alone."""
    shorter = min(image.size)
    if shorter <= side:
        return image
    width, height = (max(side, round(length * side / shorter)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Return the middle of the image, size x size pixels, 7/8 of its shorter side."""
    width, height = image.size
    side = min(width, height) * _CENTRE_SHARE
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def resized_crop_flip(image: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    """Return a random part of the image at size x size pixels, mirrored half of the time."""
    left, top, width, height = _random_box(*image.size, generator)
    part = image.crop((left, top, left + width, top + height))
    part = part.resize((size, size), Image.Resampling.BILINEAR)
    if generator.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return part


def _random_box(
    width: int, height: int, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a box inside the image."""
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*_AREA)
        ratio = math.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(width - w + 1))
            return left, int(generator.integers(height - h + 1)), w, h
    # The image is too narrow for any: its middle, with the nearest ratio allowed.
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - w) // 2, (height - h) // 2, w, h
