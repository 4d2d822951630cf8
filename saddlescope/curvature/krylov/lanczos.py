"""The Lanczos process with full reorthogonalisation on a flat basis.

A·Q_k = Q_k·T_k + β_{k+1}·q_{k+1}·e_kᵀ with Q_kᵀQ_k = I to rounding and T_k tridiagonal.

How this differs from the textbook recurrence: each new vector is orthogonalised against *all*
earlier ones, so no ghost copies of converged eigenvalues appear. "Twice is enough" (Parlett 1980,
§6.9; Giraud et al., Numer. Math. 101, 2005): the recurrence itself, which removes the two vectors
that a symmetric A couples to, is the first time, one pass of classical Gram-Schmidt, two
matrix-vector products with the basis, the second. What that pass finds left, ⟨q_j, A q_k⟩ less the
coupling, vanishes for a symmetric A: it measures, at no further product, how far A is from being
one fixed symmetric matrix.

When the basis is full it may be restarted (thick restart: Wu & Simon, SIAM J. Matrix Anal. Appl.
22, 2000): some Ritz vectors are dropped, the others kept, and the iteration goes on from the same
residual. T then has an arrow at its upper left corner instead of being tridiagonal. Which ones are
dropped decides how many products a restart costs, see `farthest_from`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.linalg import eigh, eigh_tridiagonal
from torch import Tensor

from saddlescope.curvature.memory import available_bytes, basis_capacity, is_out_of_memory
from saddlescope.curvature.operators import OperatorLike, SymmetricOperator, as_operator
from saddlescope.errors import MemoryLimitError, OperatorError, UsageError

ASYMMETRY_LIMIT = 1e-2
"""An operator whose asymmetry exceeds this share of ‖T‖ is refused; below it, it is noise."""

_BLOCK = 1 << 16
"""Columns of the basis that a restart turns at a time."""

_DROPPED_SHARE = 8
"""A restart drops capacity/8 vectors: fewer save no products and turn the basis more often."""

_PROTECTED = 3
"""Ritz vectors that a restart keeps at either end in any case; 2 of a basis below 12."""


def random_start(size: int, *, seed: int) -> Tensor:
    """Draw a vector uniform on the unit sphere of R^n, float64 on the CPU, shape (n,).

    Drawn on the CPU whatever the device, so that every device starts from the same vector.
    """
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    return vector / vector.norm()


def room_for(operator: SymmetricOperator, wanted: int, memory: int | None) -> int:
    """Return how many vectors a basis may hold besides the residual's: the least of all ranks'.

    Args:
        operator: whose products are taken.
        wanted: products at most.
        memory: bytes for the basis; None takes a share of what is free.

    Raises:
        UsageError: too few to iterate with.
    """
    own = basis_capacity(
        operator.size, operator.dtype, operator.device, wanted=wanted, memory=memory
    )
    return int(operator.ranks.least(own))


class Lanczos:
    """Extend a Krylov basis one product at a time.

    Args:
        operator: a symmetric operator of size n.
        start: shape (n,), any scale.
        capacity: vectors the basis can hold, besides the residual's.
        scale: a norm whose rounding the products hold even where they are smaller: of a deflated
            operator, that of the whole one.
        project: onto the operator's space, where that is not all of R^n. A product leaves it by
            the rounding of the whole, which near a breakdown is all there is.

    Attributes:
        alphas: ⟨q_k, A·q_k⟩ of every step taken.
        betas: β_2 … of every step taken; the last one is the norm of the current residual.
        dropped: Ritz values given up in restarts.
        asymmetry: largest departure from symmetry seen, in the units of A.
        scale: ‖T‖ from above within a factor of two, the largest absolute row sum so far, or what
            is known of the operator beforehand.
        exhausted: the basis spans an invariant subspace; no further step is possible.
    """

    def __init__(
        self,
        operator: OperatorLike,
        start: Tensor,
        *,
        capacity: int,
        scale: float = 0.0,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if start.shape != (operator.size,):
            raise UsageError(
                f"start vector of shape {tuple(start.shape)}; expected ({operator.size},)"
            )
        norm = float(start.double().norm())
        if not (math.isfinite(norm) and norm > 0):
            raise UsageError(f"start vector has norm {norm}; it must be finite and not zero")
        self.operator = as_operator(operator)
        self.ranks = self.operator.ranks
        self.capacity = min(capacity, operator.size)
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.dropped: list[float] = []
        self.asymmetry = 0.0
        self.scale = scale
        self._project = project
        self._own_scale = 0.0
        self.exhausted = False
        self.columns = 0
        self._projected = np.zeros((self.capacity + 1, self.capacity + 1))
        self._basis = _empty_basis(self.capacity + 1, self.operator)
        self._basis[0] = (start.double() / norm).to(operator.device, operator.dtype)

    @property
    def steps(self) -> int:
        """Count the products so far."""
        return len(self.alphas)

    @property
    def noise(self) -> float:
        """Return the noise that takes no extra product: the dtype's rounding, asymmetry seen."""
        # Rounding of the process itself; restarts turn the basis and add a little each time.
        factor = 8 + (2 * self.steps if self.dropped else 0)
        return max(self.asymmetry, factor * torch.finfo(self.operator.dtype).eps * self.scale)

    @property
    def full(self) -> bool:
        """Return whether another step needs a restart first."""
        return self.columns == self.capacity

    @property
    def projected(self) -> np.ndarray:
        """Return T = QᵀAQ, float64, shape (k, k)."""
        return self._projected[: self.columns, : self.columns]

    def eigh(self) -> tuple[np.ndarray, np.ndarray]:
        """Return all Ritz values, ascending, and their coordinates in the basis, shape (k, k)."""
        if self.dropped:
            return eigh(self.projected)
        k = self.columns
        return eigh_tridiagonal(np.asarray(self.alphas), np.asarray(self.betas[: k - 1]))

    def step(self) -> None:
        """Take one product and extend the basis by one vector.

        Raises:
            OperatorError: NaN or Inf in the product, or products that are not those of one
                fixed symmetric matrix.
        """
        if self.exhausted or self.full:
            raise UsageError(f"no step left after {self.steps}: the basis is full or exhausted")
        k = self.columns
        known = self._basis[: k + 1]
        product = self.operator.matvec(known[k])
        alpha = known[k] @ product
        # In the place of the next vector, not in the product's: an operator may keep that.
        residual = self._basis[k + 1]
        torch.addcmul(product, known[k], alpha, value=-1.0, out=residual)
        del product
        coupling = self._projected[:k, k]
        if coupling[:-1].any():  # right after a restart: to all vectors that were kept
            residual.addmv_(known[:k].T, torch.as_tensor(coupling).to(known), alpha=-1.0)
        elif k > 0:
            residual.sub_(known[k - 1], alpha=coupling[-1])
        departure = known @ residual
        residual.addmv_(known.T, departure, alpha=-1.0)
        if self._project is not None:
            residual.copy_(self._project(residual))
        beta = torch.linalg.vector_norm(residual)

        alpha, departure = alpha + departure[k], departure[:k].abs()
        most = departure.max() if k > 0 else torch.zeros_like(beta)
        # The one synchronisation of the step: three scalars come to the host together.
        scalars = self.ranks.from_first(torch.stack((alpha, beta, most)))
        alpha, norm, asymmetry = scalars.tolist()
        finfo = torch.finfo(self.operator.dtype)
        own = beta  # ranks follow the first in what they decide; each has unit vectors of its own
        if not math.sqrt(finfo.tiny) / finfo.eps < norm < math.inf:
            own = scaled_norm(residual)
            norm = float(self.ranks.from_first(own.clone()))
        residual.div_(own)
        if not (math.isfinite(alpha) and math.isfinite(norm)):
            raise OperatorError(
                f"product {k + 1} is NaN or Inf: the loss is not twice differentiable in finite "
                "numbers here (overflow, or a sqrt or norm at zero)"
            )
        self.alphas.append(alpha)
        self.betas.append(norm)
        self._projected[k, k] = alpha
        self._projected[k, k + 1] = self._projected[k + 1, k] = norm
        self.columns = k + 1
        self._own_scale = max(self._own_scale, float(np.abs(self.projected).sum(0).max()))
        self.scale = max(self.scale, self._own_scale)
        self.asymmetry = max(self.asymmetry, asymmetry)
        if self.asymmetry > ASYMMETRY_LIMIT * self.scale:
            raise OperatorError(
                f"products are not those of one symmetric matrix: ⟨u,Hv⟩ and ⟨v,Hu⟩ differ by "
                f"{self.asymmetry:.3g} where ‖H‖ is about {self.scale:.3g} (product {k + 1}). "
                f"Likely causes: products that are rounding only in {self.operator.dtype} (a class "
                "that is fitted whole: measure it in float64), or an operator of your own that is "
                "random (dropout, augmentation) or not symmetric"
            )
        # Relative to ‖T‖, so that scaling the operator changes nothing.
        floor = 10 * finfo.eps * self._own_scale
        if norm <= floor or self.columns == self.operator.size:
            self.exhausted = True

    def restart(self, *, low: int = 1, high: int = 1) -> None:
        """Drop an eighth of the Ritz vectors and make room for as many steps.

        Args:
            low: smallest Ritz values whose vectors must be kept; a few more are.
            high: the same of the largest ones.

        Raises:
            UsageError: nothing would be left to drop.
        """
        k = self.columns
        least = _PROTECTED if self.capacity >= 4 * _PROTECTED else 2
        low, high = max(low, least), max(high, least)
        count = min(max(1, self.capacity // _DROPPED_SHARE), k - low - high)
        if count < 1 or self.exhausted:
            raise UsageError(
                f"no restart after {self.steps} products: of {k} vectors {low} are to be kept at "
                f"the low end and {high} at the high one; it takes at least one more"
            )
        values, vectors = map(self.ranks.array_from_first, self.eigh())
        gone = farthest_from(self.dropped, values, count, low=low, high=high)
        kept = np.setdiff1d(np.arange(k), gone)
        self.dropped += values[gone].tolist()
        count = len(kept)
        rotation = torch.as_tensor(np.ascontiguousarray(vectors[:, kept].T)).to(self._basis)
        # In blocks of columns, so that no second basis is needed.
        for block in torch.split(self._basis, _BLOCK, dim=1):
            block[:count] = rotation @ block[:k]
        self._basis[count] = self._basis[k]
        arrow = self.betas[-1] * vectors[-1, kept]
        self._projected[:] = 0.0
        self._projected[range(count), range(count)] = values[kept]
        self._projected[count, :count] = self._projected[:count, count] = arrow
        self.columns = count

    def combine(self, weights: np.ndarray) -> Tensor:
        """Return Σ_j weights_j·q_j for weights of shape (k,) or (k, m): shape (n,) or (m, n)."""
        matrix = torch.as_tensor(np.ascontiguousarray(weights.T)).to(self._basis)
        return matrix @ self._basis[: self.columns]

    def image(self, weights: np.ndarray) -> Tensor:
        """Return A·Σ_j weights_j·q_j without a product, from A·Q = Q·T + β·q_{k+1}·e_kᵀ.

        Weights and result have the shapes of `combine`.
        """
        k = self.columns
        image = np.concatenate([self.projected @ weights, self.betas[-1] * weights[-1:]])
        held = k if self.exhausted else k + 1  # after a breakdown q_{k+1} does not exist
        coordinates = torch.as_tensor(np.ascontiguousarray(image[:held].T)).to(self._basis)
        return coordinates @ self._basis[:held]


def scaled_norm(vector: Tensor) -> Tensor:
    """Return ‖v‖ by squares that neither underflow nor overflow, float64, shape ().

    The plain norm of a vector of entries below 1e-162 (in float32 1e-23) is 0.
    """
    largest = vector.abs().max().double()
    if largest == 0.0:
        return largest
    return largest * torch.linalg.vector_norm(vector.double() / largest)


def _empty_basis(vectors: int, operator: SymmetricOperator) -> Tensor:
    """Room for the basis, shape (vectors, n).

    Raises:
        MemoryLimitError: there is none; says how many vectors would fit.
    """
    try:
        return torch.empty((vectors, operator.size), dtype=operator.dtype, device=operator.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    each, free = operator.size * operator.dtype.itemsize, available_bytes(operator.device)
    raise MemoryLimitError(
        f"out of memory: a Krylov basis of {vectors} vectors takes {vectors * each / 2**20:.3g} "
        f"MiB, and {free / 2**20:.3g} MiB are free on {operator.device}; at most {free // each} "
        "vectors fit: set max_matvecs or basis_memory accordingly"
    )


def farthest_from(
    dropped: Sequence[float], values: np.ndarray, count: int, *, low: int, high: int
) -> list[int]:
    """Choose which Ritz values to drop: those in the widest gaps that the dropped ones leave.

    A dropped Ritz value is a root of every later Lanczos polynomial. Without restarts the roots
    would be spread as the Ritz values are, densely where the spectrum is dense and at its ends.
    So the next value to drop is the one whose nearest dropped neighbour is farthest, in units of
    the Ritz values' own spacing there. Dropping the middle of the spectrum each time puts root
    upon root into the bulk, where one does what several do.

    Args:
        dropped: values given up so far.
        values: current Ritz values, ascending, shape (k,).
        count: how many to choose, at most k − low − high.
        low: smallest values that are kept in any case, at least 1.
        high: largest values that are kept in any case, at least 1.

    Returns:
        Indices into `values`, in no particular order.
    """
    left, gone, roots = list(range(len(values))), [], list(dropped)
    for _ in range(count):
        inner = np.asarray(left)[low : len(left) - high]
        at = np.arange(low, len(left) - high)
        if roots:
            spacing = values[np.asarray(left)[at + 1]] - values[np.asarray(left)[at - 1]]
            distance = np.abs(values[inner, None] - np.asarray(roots)).min(1)
            # Values that coincide to rounding have no spacing, and one of them is enough.
            widths = np.divide(distance, spacing, out=np.zeros_like(distance), where=spacing > 0)
        else:
            widths = -np.abs(at - (len(left) - 1) / 2)  # the first one: the median
        chosen = int(inner[np.argmax(widths)])
        left.remove(chosen)
        gone.append(chosen)
        roots.append(float(values[chosen]))
    return gone
