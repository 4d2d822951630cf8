"""The Weingarten map of the loss's graph, in symmetric form: principal curvatures by Lanczos.

Eq. 5 of the SSE-SAM paper: W = (I − ggᵀ/α²)·H/α with g = ∇L, H = ∇²L, α² = 1 + ‖g‖². It is
I⁻¹·II for the graph {(w, L(w))}: first fundamental form I + ggᵀ, second H/α (do Carmo,
Differential Geometry of Curves and Surfaces, §3-3), so its eigenvalues are the principal
curvatures. W is not symmetric. With C = (I + ggᵀ)^(−1/2),

    S = C·H·C/α    has W's eigenvalues, and    W·(C·s) = λ·(C·s)  where  S·s = λ·s.

C only shortens the gradient's direction, by 1/α: C = I − (1 − 1/α)·uuᵀ with u = g/‖g‖, the same
as I − ggᵀ/(α(1+α)). Written with u nothing overflows, and at g = 0 it is the identity.
"""

import math

import torch
from torch import Tensor

from saddlescope.curvature.objective import exact_arithmetic
from saddlescope.curvature.operators.symmetric import Congruence, OperatorLike
from saddlescope.errors import UsageError


class WeingartenOperator(Congruence):
    """Bend a Hessian into S = C·H·C/α: two rank-one corrections around each Hessian-vector product.

    Args:
        hessian: H, an operator of size n; `HessianOperator` brings its own gradient.
        gradient: g, shape (n,); None takes `hessian.gradient`.

    Attributes:
        alpha: α = sqrt(1 + ‖g‖²).
        gradient_norm: ‖g‖.

    Raises:
        UsageError: no gradient at hand, of the wrong shape, or not finite.

    Example:
        >>> import torch
        >>> from saddlescope.curvature import MatrixOperator
        >>> H = MatrixOperator(torch.diag(torch.tensor([2.0, -1.0])))
        >>> WeingartenOperator(H, torch.zeros(2)).matvec(torch.ones(2))
        tensor([ 2., -1.])
    """

    def __init__(self, hessian: OperatorLike, gradient: Tensor | None = None) -> None:
        super().__init__(hessian)
        found = getattr(hessian, "gradient", None) if gradient is None else gradient
        if found is None:
            raise UsageError(
                f"{type(hessian).__name__} has no gradient of its own: pass gradient=∇L(w)"
            )
        if found.shape != (hessian.size,):
            raise UsageError(
                f"gradient of shape {tuple(found.shape)} for an operator of size {hessian.size}; "
                f"expected ({hessian.size},)"
            )
        exact = found.detach().to(self.device, torch.float64)
        self.gradient_norm = float(torch.linalg.vector_norm(exact))
        if not math.isfinite(self.gradient_norm):
            raise UsageError(f"gradient has norm {self.gradient_norm}; it must be finite")
        self.alpha = math.hypot(1.0, self.gradient_norm)
        # 1 − 1/α without its cancellation at small g: (‖g‖/α)·(‖g‖/(1+α)).
        self._shortening = self.gradient_norm / self.alpha * self.gradient_norm / (1 + self.alpha)
        self._unit = (exact / (self.gradient_norm or 1.0)).to(self.dtype)
        self._given = None if gradient is None else exact

    def matvec(self, vector: Tensor) -> Tensor:
        """Return S·v for v of shape (n,)."""
        return super().matvec(vector) / self.alpha

    @exact_arithmetic()
    def outer(self, vector: Tensor) -> Tensor:
        """Return C·v, for one vector or for each row."""
        along = vector @ self._unit
        return vector - self._shortening * along.unsqueeze(-1) * self._unit

    def principal_directions(self, eigenvectors: Tensor) -> Tensor:
        """Map eigenvectors of S to those of W (principal directions), each of unit length.

        Args:
            eigenvectors: shape (n,) or, row by row, (m, n).

        Returns:
            C·s/‖C·s‖ for each s, of the same shape: unit length as vectors of w.
        """
        mapped = self.outer(eigenvectors)
        return mapped / torch.linalg.vector_norm(mapped, dim=-1, keepdim=True)

    def reference(self) -> "WeingartenOperator | None":
        """Return the same map in float64, around the float64 Hessian with *its* gradient."""
        if self.dtype == torch.float64:
            return self
        hessian = self.inner.reference()
        return None if hessian is None else WeingartenOperator(hessian, self._given)
