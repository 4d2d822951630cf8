"""A synthetic set: one fixed image a class, and noise. Made from a seed, nothing to download.

The `two-layer-linear` network starts at a saddle where the Hessian of every class is known in
closed form (`saddlescope.models.origin_eigenvalues`): an instrument that is wrong shows it here.
"""

import numpy as np
import torch

from saddlescope.longtail.datasets import LabelledImages, SourceData

LARGEST = 100
TEST_PER_CLASS = 20
_CLASSES = 10
_SIDE = 8
_NOISE = 32.0
_SEED = 0


def load_prototypes() -> SourceData:
    """Make the set: 1,000 training and 200 test images, 10 classes, balanced.

    Image = clip(round(p_y + 32 z), 0, 255), z standard normal in every pixel; p_c uniform on
    [0, 255] in every pixel.

    Returns:
        Images of shape (N, 1, 8, 8) with scale 255, each split ordered by class.
    """
    generator = np.random.default_rng(_SEED)
    prototypes = generator.uniform(0.0, 255.0, (_CLASSES, 1, 1, _SIDE, _SIDE))
    each = LARGEST + TEST_PER_CLASS
    noise = generator.standard_normal((_CLASSES, each, 1, _SIDE, _SIDE))
    pixels = np.clip(np.rint(prototypes + _NOISE * noise), 0, 255).astype(np.uint8)
    return SourceData(
        train=_split(pixels[:, :LARGEST]),
        test=_split(pixels[:, LARGEST:]),
        class_names=tuple(f"prototype {number}" for number in range(_CLASSES)),
        official_rows=_CLASSES * LARGEST,
    )


def _split(pixels: np.ndarray) -> LabelledImages:
    classes, each = pixels.shape[:2]
    labels = torch.arange(classes).repeat_interleave(each)
    images = torch.from_numpy(pixels.reshape(-1, *pixels.shape[2:]).copy())
    # Not centred by class: the class means carry the closed form.
    return LabelledImages(images, labels, mean=(0.5,), std=(0.25,))
