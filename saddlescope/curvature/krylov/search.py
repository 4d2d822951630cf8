"""How an iteration for both ends begins, and what it hands back beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor


class SearchOptions(TypedDict, total=False):
    """Name the fields of `Search` as keywords of a public function."""

    seed: int
    noise: float | None
    basis_memory: int | None
    warm_start: Tensor | None
    eigenvectors: bool
    progress: Callable[[int, float, float], None] | None


@dataclass(frozen=True)
class Search:
    """Say where an iteration starts and what it keeps; none of it decides when it stops.

    Attributes:
        seed: of the start vector.
        noise: absolute rounding error of a product; None measures it against the operator's
            float64 `reference()` at the end.
        basis_memory: bytes that the Krylov basis may occupy; beyond them it is restarted, see
            `Lanczos`. None takes a share of what is free.
        warm_start: shape (n,); a guess such as v_max + v_min of an earlier checkpoint, to which
            a fresh random vector of equal length is added, so that the bounds survive. It saves
            products where residuals decide; the bounds come from the fresh part alone, so with
            `certify` it saves none.
        eigenvectors: also return v_max and v_min.
        progress: called after each product with (products, θ_max, θ_min).
    """

    seed: int = 0
    noise: float | None = None
    basis_memory: int | None = None
    warm_start: Tensor | None = None
    eigenvectors: bool = False
    progress: Callable[[int, float, float], None] | None = None
