"""scikit-learn's bundled digits: 1,797 8x8 images, nothing to download.

Alpaydin and Kaynak's optical recognition of handwritten digits (UCI), values 0 to 16. The set
has no test split; one is drawn here once and for all, with its own seed, so that it does not
depend on the imbalance. 44 test images a class leave at least 130 of each class for training;
at IF = 20 the training set has 438 images.
"""

import numpy as np
import torch

from saddlescope.longtail.datasets import LabelledImages, SourceData

TEST_PER_CLASS = 44
LARGEST = 130
_SPLIT_SEED = 0
_MEAN = (0.3053,)  # of all 1,797 images, values divided by 16
_STD = (0.3760,)


def load_digits() -> SourceData:
    """Load the digits, split into 1,357 training and 440 balanced test images.

    Returns:
        Images of shape (N, 1, 8, 8) with scale 16, each split in file order.
    """
    from sklearn.datasets import load_digits as bundled

    images, labels = bundled(return_X_y=True)
    generator = np.random.default_rng(_SPLIT_SEED)
    in_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        of_digit = np.flatnonzero(labels == digit)
        in_test[generator.permutation(of_digit)[:TEST_PER_CLASS]] = True
    pixels = torch.from_numpy(images.astype(np.uint8).reshape(-1, 1, 8, 8))
    classes = torch.from_numpy(labels.astype(np.int64))
    everything = LabelledImages(pixels, classes, _MEAN, _STD, scale=16.0)
    return SourceData(
        train=everything.select(torch.from_numpy(np.flatnonzero(~in_test))),
        test=everything.select(torch.from_numpy(np.flatnonzero(in_test))),
        class_names=tuple(str(digit) for digit in range(10)),
        official_rows=int((~in_test).sum()),
    )
