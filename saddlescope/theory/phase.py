"""The phase diagram of one SAM step beside one SGD step near a saddle, along v_min.

With a = η|λ_min| and b = ρ|λ_min|/‖∇L‖, one step at a given gradient norm multiplies the component
of the gradient along v_min by k = 1 + a under SGD and by f = k − ab under SAM. Two quantities
differ:

- the distance from the saddle along v_min is |G|/|λ|: SAM's grows less than SGD's for 0 < ab < 2k
  and shrinks for 1 < b < 1 + 2/a; from b = 1 + 1/a on its sign alternates;
- the displacement from w_0, which is what Theorem 1 speaks of, is proportional to |k − 1| and |f −
  1|: SAM's is smaller than SGD's for 0 < b < 2.

Theorem 1 needs b >= (1 + μ) + (2 + μ)/a, since L >= ‖∇L‖: far inside the region of alternating
growth.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from saddlescope.theory.trajectories import Array

DISTANCE_REGIONS: Final = (
    "slower escape",
    "contracts",
    "contracts, alternating",
    "slower escape, alternating",
    "faster escape, alternating",
)
"""Of the distance from the saddle, in the order of b; borders 1, 1 + 1/a, 1 + 2/a, 2 + 2/a."""

DISPLACEMENT_REGIONS: Final = ("smaller", "larger")
"""Of the displacement from w_0, in the order of b; border 2."""

Regions = npt.NDArray[np.intp]


def distance_borders(a: Array) -> Array:
    """Return the values of b at the borders between `DISTANCE_REGIONS`, shape (4, …)."""
    a = np.asarray(a, dtype=np.float64)
    return np.stack([np.ones_like(a), 1.0 + 1.0 / a, 1.0 + 2.0 / a, 2.0 + 2.0 / a])


def distance_region(a: Array, b: Array) -> Regions:
    """Find the one of `DISTANCE_REGIONS`, by the formula."""
    return (np.asarray(b) > distance_borders(a)).sum(0)


def displacement_region(b: Array) -> Regions:
    """Find the one of `DISPLACEMENT_REGIONS`, by the formula."""
    return (np.asarray(b) > 2.0).astype(np.intp)


def theorem1_border(a: Array, mu: float = 1.0) -> Array:
    """Return the least b with which Theorem 1's hypothesis can hold, for its μ."""
    return (1.0 + mu) + (2.0 + mu) / np.asarray(a, dtype=np.float64)
