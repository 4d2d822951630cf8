"""The Lanczos process with full reorthogonalisation on a flat basis.

A·Q_k = Q_k·T_k + β_{k+1}·q_{k+1}·e_kᵀ with Q_kᵀQ_k = I to rounding and T_k tridiagonal.

How this differs from the textbook recurrence: each new vector is orthogonalised against *all*
earlier ones by two passes of classical Gram-Schmidt, each two matrix-vector products with the
basis ("twice is enough", Parlett 1980, §6.9; Giraud et al., Numer. Math. 101, 2005), so no
ghost copies of converged eigenvalues appear. The first pass computes ⟨q_j, A q_k⟩ for every j.
For a symmetric A these vanish for j < k−1 and equal β_k for j = k−1, so their departure from
that measures, at no further product, how far A is from being one fixed symmetric matrix.
"""

import math

import numpy as np
import torch
from torch import Tensor

from saddlescope.curvature.operators import SymmetricOperator
from saddlescope.errors import OperatorError, UsageError

ASYMMETRY_LIMIT = 1e-2
"""An operator whose asymmetry exceeds this share of ‖T‖ is refused; below it, it is noise."""


def random_start(size: int, *, seed: int) -> Tensor:
    """A vector uniform on the unit sphere of R^n, float64 on the CPU, shape (n,).

    Drawn on the CPU whatever the device, so that every device starts from the same vector.
    """
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    return vector / vector.norm()


class Lanczos:
    """Extends a Krylov basis one product at a time.

    Args:
        operator: a symmetric operator of size n.
        start: shape (n,), any scale.
        capacity: the most steps that will be asked for.

    Attributes:
        alphas: k diagonal entries of T.
        betas: k entries β_2 … β_{k+1}; the last one is the norm of the current residual.
        asymmetry: largest departure from symmetry seen, in the units of A.
        exhausted: the basis spans an invariant subspace; no further step is possible.
    """

    def __init__(self, operator: SymmetricOperator, start: Tensor, *, capacity: int) -> None:
        if start.shape != (operator.size,):
            raise UsageError(
                f"start vector of shape {tuple(start.shape)}; expected ({operator.size},)"
            )
        norm = float(start.double().norm())
        if not (math.isfinite(norm) and norm > 0):
            raise UsageError(f"start vector has norm {norm}; it must be finite and not zero")
        self.operator = operator
        self.capacity = min(capacity, operator.size)
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self.asymmetry = 0.0
        self.exhausted = False
        self._basis = torch.empty(
            (self.capacity + 1, operator.size), dtype=operator.dtype, device=operator.device
        )
        self._basis[0] = (start.double() / norm).to(operator.device, operator.dtype)

    @property
    def steps(self) -> int:
        """k, the number of products so far."""
        return len(self.alphas)

    @property
    def scale(self) -> float:
        """‖T‖ estimated from above within a factor of two: its largest absolute row sum."""
        k = self.steps
        couplings = [0.0, *self.betas[: k - 1], 0.0]
        return max(
            (abs(self.alphas[j]) + couplings[j] + couplings[j + 1] for j in range(k)), default=0.0
        )

    def step(self) -> None:
        """Take one product and extend the basis by one vector.

        Raises:
            OperatorError: NaN or Inf in the product, or products that are not those of one
                fixed symmetric matrix.
        """
        if self.exhausted or self.steps >= self.capacity:
            raise UsageError(f"no step left after {self.steps}: the basis is full or exhausted")
        k = self.steps
        known = self._basis[: k + 1]
        residual = self.operator.matvec(known[k])
        first = known @ residual
        residual = residual - first @ known
        second = known @ residual
        residual = residual - second @ known
        beta = torch.linalg.vector_norm(residual)
        torch.div(residual, beta, out=self._basis[k + 1])

        expected = torch.zeros_like(first)
        if k > 0:
            expected[k - 1] = self.betas[-1]
        departure = (first - expected)[:k].abs().max() if k > 0 else torch.zeros_like(beta)
        # The one synchronisation of the step: three scalars come to the host together.
        alpha, norm, asymmetry = torch.stack((first[k] + second[k], beta, departure)).tolist()
        if not (math.isfinite(alpha) and math.isfinite(norm)):
            raise OperatorError(
                f"product {k + 1} is NaN or Inf: the loss is not twice differentiable in finite "
                "numbers here (overflow, or a sqrt or norm at zero)"
            )
        self.alphas.append(alpha)
        self.betas.append(norm)
        self.asymmetry = max(self.asymmetry, asymmetry)
        if self.asymmetry > ASYMMETRY_LIMIT * self.scale:
            raise OperatorError(
                f"products are not those of one symmetric matrix: ⟨u,Hv⟩ and ⟨v,Hu⟩ differ by "
                f"{self.asymmetry:.3g} where ‖H‖ is about {self.scale:.3g} (product {k + 1}). "
                "Likely causes: dropout or BatchNorm in train mode, random augmentation, data "
                "that change from pass to pass"
            )
        # Relative to ‖T‖, so that scaling the operator changes nothing.
        floor = 10 * torch.finfo(self.operator.dtype).eps * self.scale
        if norm <= floor or self.steps == self.operator.size:
            self.exhausted = True

    def combine(self, weights: np.ndarray) -> Tensor:
        """Σ_j weights_j·q_j for weights of shape (k,) or (k, m): shape (n,) or (m, n)."""
        matrix = torch.as_tensor(np.ascontiguousarray(weights.T)).to(self._basis)
        return matrix @ self._basis[: self.steps]

    def image(self, weights: np.ndarray) -> Tensor:
        """A·Σ_j weights_j·q_j without a product, from A·Q = Q·T + β·q_{k+1}·e_kᵀ; shape (n,)."""
        k = self.steps
        image = np.zeros(k + 1)
        image[:k] = np.asarray(self.alphas) * weights
        couplings = np.asarray(self.betas)
        image[1 : k + 1] += couplings * weights
        image[: k - 1] += couplings[: k - 1] * weights[1:]
        held = k if self.exhausted else k + 1  # after a breakdown q_{k+1} does not exist
        coordinates = torch.as_tensor(image[:held]).to(self._basis)
        return coordinates @ self._basis[:held]
