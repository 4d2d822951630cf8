"""Imbalance profiles: how many training images each class keeps.

Cui, Jia, Lin, Song, Belongie, "Class-balanced loss based on effective number of samples"
(CVPR 2019) for the exponential profile and Buda, Maki, Mazurowski (Neural Networks 2018) for
the step; the numbers are those of LDAM-DRW and of the paper's released code. Class 0 is the
largest class.
"""

import math
from typing import Final

from saddlescope.errors import UsageError

PROFILES: Final = ("exp", "step")
"""Names of the profiles."""

_ROUNDING = 1e-12
"""Relative slack before the floor: 32 ** (4/5) is 16.000000000000004 in float64, and a count
that is a whole number on paper must not lose one image to that."""


def class_counts(
    *, num_classes: int, largest: int, imbalance_factor: float, profile: str = "exp"
) -> tuple[int, ...]:
    """Training images of each class.

    "exp": n_i = floor(largest / IF^(i/(C-1))). "step": `largest` for the first C // 2 classes,
    floor(largest / IF) for the others.

    Args:
        num_classes: C, at least 2.
        largest: images of class 0.
        imbalance_factor: IF, largest over smallest, at least 1.
        profile: "exp" or "step".

    Returns:
        C counts that never increase, each at least 1.

    Raises:
        UsageError: an argument out of its range, or a class left without an image.
    """
    if profile not in PROFILES:
        raise UsageError(f"unknown profile {profile!r}: choose from {', '.join(PROFILES)}")
    if num_classes < 2:
        raise UsageError(f"num_classes={num_classes}: a profile needs at least 2")
    if largest < 1:
        raise UsageError(f"largest={largest}: the largest class needs at least 1 image")
    if not (math.isfinite(imbalance_factor) and imbalance_factor >= 1):
        raise UsageError(f"imbalance_factor={imbalance_factor}: give a number of at least 1")
    if profile == "exp":
        exponents = [i / (num_classes - 1) for i in range(num_classes)]
    else:
        exponents = [float(i >= num_classes // 2) for i in range(num_classes)]
    counts = tuple(
        math.floor(largest / imbalance_factor**exponent * (1 + _ROUNDING)) for exponent in exponents
    )
    if counts[-1] < 1:
        raise UsageError(
            f"imbalance_factor={imbalance_factor}: class {counts.index(0)} would have no image; "
            f"with largest={largest} it may be {largest} at most"
        )
    return counts
