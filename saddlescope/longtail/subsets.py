"""Which images a long-tailed training set keeps.

"first" keeps the first n of each class in file order, as the paper's released code does.
"shuffled" is LDAM-DRW's scheme (Cao et al., NeurIPS 2019): one legacy NumPy generator shuffles
the positions of class 0, then those of class 1 and so on, and the first n of each are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from saddlescope.errors import DataError, UsageError

SUBSETS: Final = ("first", "shuffled")
"""Names of the schemes."""


@dataclass(frozen=True)
class Cut:
    """How a long tail is cut out of a data set.

    Attributes:
        profile: "exp" or "step", see `class_counts`.
        subset: "first" or "shuffled", see `choose_subset`.
        subset_seed: seed of "shuffled"; LDAM-DRW's is 0.
    """

    profile: str = "exp"
    subset: str = "first"
    subset_seed: int = 0

    def __post_init__(self) -> None:
        if self.subset not in SUBSETS:
            raise UsageError(f"unknown subset {self.subset!r}: choose from {', '.join(SUBSETS)}")


def choose_subset(
    labels: npt.ArrayLike, counts: Sequence[int], cut: Cut | None = None
) -> npt.NDArray[np.int64]:
    """Choose the images to keep.

    Args:
        labels: class of each available image, shape (N,), integers.
        counts: images to keep of each class, length C.
        cut: whose `subset` and `subset_seed` say which; None keeps the first.

    Returns:
        Positions into `labels`, ascending, shape (sum of counts,), int64.

    Raises:
        DataError: a class with fewer images than asked for.
    """
    cut = cut or Cut()
    labels = np.asarray(labels)
    # The legacy generator is what LDAM-DRW's seed means; a new-style one draws other images.
    legacy = np.random.RandomState(cut.subset_seed)
    kept = []
    for label, need in enumerate(counts):
        positions = np.flatnonzero(labels == label)
        if len(positions) < need:
            raise DataError(
                f"class {label} has {len(positions)} images, {need} are needed: "
                "raise imbalance_factor or use the full data set"
            )
        if cut.subset == "shuffled":
            legacy.shuffle(positions)
        kept.append(positions[:need])
    return np.sort(np.concatenate(kept)).astype(np.int64)
