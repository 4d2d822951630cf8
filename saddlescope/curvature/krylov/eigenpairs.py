"""The k outermost eigenvalues at one end of a spectrum, each as often as it is one.

A Krylov space holds one vector of each eigenspace, so Lanczos alone shows a repeated eigenvalue
once, with a residual of nothing and no sign that anything is missing. So what has converged is
locked, X (k orthonormal vectors), and the search goes on from a fresh random vector in the rest,
C = P·A·P with P = I − XᵀX. Whatever it finds further out is locked too. It ends when nothing more
can be there. In the basis of X and its complement

    A = ( Θ   Eᵀ )     Θ = X·A·Xᵀ diagonal,  ‖E‖ = ‖A·Xᵀ − XᵀΘ‖, the residuals,
        ( E   C  )

so by Weyl's inequality the eigenvalues of A are those of Θ and C together, each within ‖E‖. The
fresh vector is uniform on the sphere of C's space and independent of X, so the probabilistic bound
of `bounds` holds for C as for any matrix: with the stated probability no eigenvalue of C lies
beyond μ. Then the j-th eigenvalue of A from the end (here the low one), repeated ones counted as
often as they are, lies in

    min(θ_j, μ) − ‖E‖ <= λ_j <= θ_j,

the right side for certain (Cauchy's interlacing), the left one on that event. The run is done when
μ has passed θ_k but for the tolerance. The s-th run may miss with probability (1 − confidence)/
(s·(s + 1)); over any number of runs that adds up to less than 1 − confidence.

Sources: Parlett, The Symmetric Eigenvalue Problem (1980), §10.1 and §11.5; `bounds` for μ.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from torch import Tensor

from saddlescope.curvature.keywords import gathered
from saddlescope.curvature.krylov.lanczos import random_start, room_for
from saddlescope.curvature.krylov.locking import LockedSearch
from saddlescope.curvature.objective import exact_arithmetic
from saddlescope.curvature.operators import OperatorLike, SymmetricOperator, as_operator
from saddlescope.curvature.seeds import derived_seed
from saddlescope.errors import UsageError
from saddlescope.results import Result, draw_interval
from saddlescope.stopping import StopOptions, StopRule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BESIDE = 7
"""Vectors beside the k wanted: three at the other end, and some to iterate with."""


@dataclass(frozen=True, eq=False, repr=False)
class Eigenpairs(Result):
    """Hold the k outermost eigenpairs at one end, from the end inwards.

    Attributes:
        values: Ritz values θ, shape (k,), float64; a repeated eigenvalue as often as it is one.
        lower: below which the eigenvalue of this rank does not lie, shape (k,), float64.
        upper: above which it does not lie. At each end the outer side holds with probability
            `confidence` for all ranks together, and is infinite where products ran out before it
            was known; the inner side is rigorous, up to the measured rounding.
        residuals: ‖A·x − θ·x‖ of each, shape (k,), float64: some eigenvalue lies that near.
        vectors: orthonormal Ritz vectors, shape (k, n), in the operator's dtype.
        end: which end.
        confidence: see `lower` and `upper`.
        noise: absolute rounding error of a product, contained in them.
        matvecs: products used.
        converged: whether all residuals passed and no further eigenvalue can be among the k but
            for the tolerance.
        notes: what a careful reader should know, one sentence each.
    """

    values: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    residuals: np.ndarray
    vectors: Tensor
    end: Literal["max", "min"]
    confidence: float
    noise: float
    matvecs: int
    converged: bool
    notes: tuple[str, ...] = ()

    def columns(self) -> dict[str, Any]:
        """Return the values from the end inwards, with their bounds and residuals."""
        return {
            "rank": range(1, len(self.values) + 1),
            "value": self.values,
            "lower": self.lower,
            "upper": self.upper,
            "residual": self.residuals,
        }

    def __repr__(self) -> str:
        values = ", ".join(f"{value:.4g}" for value in self.values[:8])
        rest = ", …" if len(self.values) > 8 else ""
        state = "converged" if self.converged else "not converged"
        return (
            f"{len(self.values)} eigenpairs from the {self.end} end: {values}{rest}; {state} after "
            f"{self.matvecs} products"
        )

    def _draw(self, axes: "Axes") -> None:
        for row, (value, lower, upper) in enumerate(
            zip(self.values, self.lower, self.upper, strict=True), start=1
        ):
            draw_interval(axes, row, value, lower, upper, filled=self.converged)
        axes.set(xlabel="eigenvalue", ylabel="rank", ylim=(len(self.values) + 0.6, 0.4))
        axes.locator_params(axis="y", integer=True)


@exact_arithmetic()
def top_eigenpairs(
    operator: OperatorLike,
    stop: StopRule = StopRule(max_matvecs=300),
    *,
    k: int,
    end: Literal["max", "min"] = "max",
    seed: int = 0,
    basis_memory: int | None = None,
    **options: Unpack[StopOptions],
) -> Eigenpairs:
    """Find the k largest (or smallest) eigenvalues, algebraically, with their eigenvectors.

    Repeated eigenvalues come as often as they are there: what has converged is locked, and the
    search goes on from fresh random vectors in the rest until, with probability `confidence`, no
    eigenvalue further out than the k-th by more than its tolerance has been left behind. The last
    of these runs finds nothing and costs about as much as the first.

    Args:
        operator: of size n.
        stop: a pair passes when its residual is below the share `rtol` of its |θ|, or below the
            floor; `confidence` is the probability that none of the intervals misses, all ranks
            together. After `max_matvecs` products, 300 by default, `converged` says that they ran
            out, and fewer than k pairs come back where fewer were found. `certify` is not read:
            an interval is always sought.
        k: how many, at most n.
        end: "max" or "min".
        seed: of the start vectors.
        basis_memory: bytes that the basis may occupy; beyond them it is restarted with the k pairs
            kept. None takes a share of what is free. The pairs take 2k vectors beside it.
        **options: single fields of `stop`.

    Raises:
        UsageError: an option out of range, or k pairs that do not fit into the basis.
        OperatorError: see `Lanczos`.
    """
    matrix = as_operator(operator)
    (stop,) = gathered(options, stop)
    if not 1 <= k <= matrix.size:
        raise UsageError(f"k = {k}: expected 1 to {matrix.size} (n)")
    if end not in ("max", "min"):
        raise UsageError(f"end = {end!r}: expected 'max' or 'min'")
    if stop.max_matvecs < k:
        raise UsageError(f"max_matvecs = {stop.max_matvecs}: k = {k} pairs need at least as many")
    matrix.verify()
    search = LockedSearch(matrix, stop, k=k, sign=1 if end == "min" else -1)
    capacity = _capacity(matrix, k, stop.max_matvecs, basis_memory)
    # Of the first run the seed's own vector, as that of `extreme_eigenvalues`.
    allowed = 1.0 - stop.confidence
    edge = search.run(random_start(matrix.size, seed=seed), 0.5 * allowed, capacity)
    runs = 1
    while edge == -math.inf and search.products < stop.max_matvecs:
        runs += 1
        start = random_start(matrix.size, seed=derived_seed(seed, "deflated", runs))
        edge = search.run(start, allowed / (runs * (runs + 1)), capacity)
    matrix.check(search.vectors.sum(0))
    return _result(matrix, search, end, stop.confidence, edge)


def _result(
    operator: SymmetricOperator,
    search: LockedSearch,
    end: Literal["max", "min"],
    confidence: float,
    edge: float,
) -> Eigenpairs:
    """What was found, and the intervals that a bound on the rest gives."""
    sign = 1.0 if end == "min" else -1.0
    notes = list(operator.notes)
    noise = search.noise(notes)
    inner = search.values + noise
    outer = np.minimum(search.values, edge) - search.coupling() - noise
    lower, upper = (outer, inner) if end == "min" else (-inner, -outer)
    return Eigenpairs(
        values=sign * search.values,
        lower=lower,
        upper=upper,
        residuals=search.residuals,
        vectors=search.vectors,
        end=end,
        confidence=confidence,
        noise=noise,
        matvecs=search.products,
        converged=search.certified(edge),
        notes=tuple(notes),
    )


def _capacity(operator: SymmetricOperator, k: int, max_matvecs: int, memory: int | None) -> int:
    """Vectors of the basis: all, or enough to keep k at one end and go on."""
    capacity = room_for(operator, max_matvecs, memory)
    needed = min(k + _BESIDE, max_matvecs, operator.size)
    if capacity < needed:
        each = operator.size * operator.dtype.itemsize / 2**20
        raise UsageError(
            f"{k} eigenpairs need a basis of {needed + 1} vectors of {each:.3g} MiB, "
            f"{(needed + 1) * each:.3g} MiB in all; {capacity + 1} fit: ask for "
            f"{max(1, capacity - _BESIDE)} pairs, free memory, or restrict the parameters"
        )
    return capacity
