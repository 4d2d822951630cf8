"""matfree's interface on ours: its tridiagonalisation, and with it what is built upon that.

matfree works on JAX arrays; a product goes there and back through NumPy, in JAX's float32. Where
JAX traces (under jit, vmap and grad) there are no numbers to hand on, a complex matrix is none of
ours, and a basis without reorthogonalisation does not exist here: those calls stay matfree's.
Its samplers, diagonals, Cholesky factors and bidiagonalisation have no counterpart.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import matfree.decomp
import numpy as np
import torch
from jax.flatten_util import ravel_pytree
from torch import Tensor

from benchmarks.peer_suites.reach import mark, replace
from saddlescope.curvature.krylov.lanczos import Lanczos

theirs = matfree.decomp.tridiag_sym


class _Products:
    """A function of pytrees as an operator."""

    def __init__(self, product: Callable[[Any], Any], like: Any) -> None:
        flat, self._unflatten = ravel_pytree(like)
        self._product = product
        self.size, self.device = flat.size, torch.device("cpu")
        self.dtype = torch.float64 if flat.dtype == jnp.float64 else torch.float32

    def matvec(self, vector: Tensor) -> Tensor:
        """A·v."""
        image = self._product(self._unflatten(jnp.asarray(vector.numpy())))
        return torch.from_numpy(np.array(ravel_pytree(image)[0]))


def tridiag_sym(
    num_matvecs: int,
    /,
    *,
    materialize: bool = True,
    reortho: str = "full",
    custom_vjp: bool = True,
) -> Callable[..., Any]:
    """Theirs on our Lanczos process."""
    other = theirs(num_matvecs, materialize=materialize, reortho=reortho, custom_vjp=custom_vjp)

    def decompose(matvec: Callable[..., Any], vec: Any, *params: Any) -> Any:
        leaves = jax.tree_util.tree_leaves((vec, params))
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        flat, unflatten = ravel_pytree(vec)
        wanted = 1 <= num_matvecs <= flat.size and reortho == "full"
        if traced or not wanted or jnp.iscomplexobj(flat):
            return other(matvec, vec, *params)
        mark()
        operator = _Products(lambda v: matvec(v, *params), vec)
        start = torch.from_numpy(np.array(flat)).double()
        process = Lanczos(operator, start, capacity=num_matvecs)
        while process.steps < num_matvecs and not process.exhausted:
            process.step()
        basis = np.eye(process.steps, dtype=flat.dtype)
        rows = jax.vmap(unflatten)(jnp.asarray(process.combine(basis).numpy()))
        diagonal = jnp.asarray(process.alphas, dtype=flat.dtype)
        beside = jnp.asarray(process.betas[: process.steps - 1], dtype=flat.dtype)
        small: Any = (diagonal, beside)
        if materialize:
            small = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
        last = np.eye(process.steps, dtype=flat.dtype)[:, -1]
        image = process.image(last) - process.combine(process.projected @ last)  # β·q_{k+1}
        residual = image.numpy().astype(flat.dtype)
        length = 1.0 / float(torch.linalg.vector_norm(start))
        result = matfree.decomp._DecompResult
        return result(rows, small, unflatten(jnp.asarray(residual)), length)

    return decompose


replace({"tridiag_sym": tridiag_sym}, "matfree")
