"""Which images a long-tailed training set keeps.

"first" keeps the first n of each class in file order, as the paper's released code does.
"shuffled" is LDAM-DRW's scheme (Cao et al., NeurIPS 2019): one legacy NumPy generator shuffles
the positions of class 0, then those of class 1 and so on, and the first n of each are kept.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from saddlescope.errors import DataError, UsageError

SUBSETS: Final = ("first", "shuffled")
"""Names of the schemes."""


def choose_subset(
    labels: npt.ArrayLike, counts: Sequence[int], *, subset: str = "first", seed: int = 0
) -> npt.NDArray[np.int64]:
    """Positions of the images to keep, ascending.

    Args:
        labels: class of each available image, shape (N,), integers.
        counts: images to keep of each class, length C.
        subset: "first" or "shuffled".
        seed: seed of "shuffled"; LDAM-DRW's is 0.

    Returns:
        Positions into `labels`, shape (sum of counts,), int64.

    Raises:
        UsageError: an unknown scheme.
        DataError: a class with fewer images than asked for.
    """
    if subset not in SUBSETS:
        raise UsageError(f"unknown subset {subset!r}: choose from {', '.join(SUBSETS)}")
    labels = np.asarray(labels)
    # The legacy generator is what LDAM-DRW's seed means; a new-style one draws other images.
    legacy = np.random.RandomState(seed)
    kept = []
    for label, need in enumerate(counts):
        positions = np.flatnonzero(labels == label)
        if len(positions) < need:
            raise DataError(
                f"class {label} has {len(positions)} images, {need} are needed: "
                "raise imbalance_factor or use the full data set"
            )
        if subset == "shuffled":
            legacy.shuffle(positions)
        kept.append(positions[:need])
    return np.sort(np.concatenate(kept)).astype(np.int64)
