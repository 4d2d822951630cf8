"""The k outermost eigenpairs at one end of a spectrum, and eigenvectors on disk.

A Ritz pair's residual ‖A·x − θ·x‖ comes with the Lanczos process, β·|last coordinate of x|, and
some eigenvalue is that near (Parlett, The Symmetric Eigenvalue Problem, 1980, §4.5). It does not
say which one: `extreme_eigenvalues` bounds the ends themselves.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from saddlescope.curvature.distributed import ranks_of
from saddlescope.curvature.krylov.extreme import Ends
from saddlescope.curvature.krylov.lanczos import Lanczos, random_start
from saddlescope.curvature.memory import basis_capacity
from saddlescope.curvature.symmetric import SymmetricOperator
from saddlescope.errors import UsageError
from saddlescope.runs import write_bytes

_BESIDE = 7
"""Vectors beside the k wanted: three at the other end, and some to iterate with."""


@dataclass(frozen=True)
class Eigenpairs:
    """The k outermost eigenpairs at one end, from the end inwards.

    Attributes:
        values: Ritz values, shape (k,), float64.
        residuals: ‖A·x − θ·x‖ of each, shape (k,), float64: an eigenvalue lies that near.
        vectors: unit Ritz vectors, shape (k, n), in the operator's dtype.
        end: which end.
        matvecs: products used.
        converged: whether all residuals passed.
    """

    values: np.ndarray
    residuals: np.ndarray
    vectors: Tensor
    end: Literal["max", "min"]
    matvecs: int
    converged: bool


def top_eigenpairs(
    operator: SymmetricOperator,
    *,
    k: int,
    end: Literal["max", "min"] = "max",
    rtol: float = 1e-2,
    atol: float = 1e-5,
    max_matvecs: int = 300,
    seed: int = 0,
    basis_memory: int | None = None,
) -> Eigenpairs:
    """The k largest (or smallest) eigenvalues, algebraically, with their eigenvectors.

    One Krylov space is extended until all k residuals pass. It holds one vector of each
    eigenspace, so a repeated eigenvalue comes once; where the space is exhausted with fewer
    than k distinct eigenvalues, these are all there are and fewer than k pairs come back.

    Args:
        operator: of size n.
        k: how many, at most n.
        end: "max" or "min".
        rtol: a residual passes below this share of its |θ| …
        atol: … or below this share of ‖T‖, or below the rounding of the operator's dtype.
        max_matvecs: give up after this many products; `converged` then says so.
        seed: of the start vector.
        basis_memory: bytes that the basis may occupy; beyond them it is restarted with the k pairs
            kept. None takes a share of what is free.

    Raises:
        UsageError: an option out of range, or k pairs that do not fit into the basis.
        OperatorError: see `Lanczos`.
    """
    if not 1 <= k <= operator.size:
        raise UsageError(f"k = {k}: expected 1 to {operator.size} (n)")
    if end not in ("max", "min"):
        raise UsageError(f"end = {end!r}: expected 'max' or 'min'")
    if max_matvecs < k:
        raise UsageError(f"max_matvecs = {max_matvecs}: k = {k} pairs need at least as many")
    if hasattr(operator, "verify"):
        operator.verify()
    epsilon = float(torch.finfo(operator.dtype).eps)
    start = random_start(operator.size, seed=seed)
    lanczos = Lanczos(operator, start, capacity=_capacity(operator, k, max_matvecs, basis_memory))
    kept = {"low": k} if end == "min" else {"high": k}
    converged = False
    while not converged and lanczos.steps < max_matvecs:
        if lanczos.full:
            lanczos.restart(**kept)
        lanczos.step()
        if lanczos.steps < k and not lanczos.exhausted:
            continue
        theta, coordinates = lanczos.eigh()
        outer = np.argsort(theta if end == "min" else -theta, kind="stable")[:k]
        residuals = np.maximum(
            lanczos.betas[-1] * np.abs(coordinates[-1, outer]), epsilon * lanczos.scale
        )
        floor = max(atol, 8 * epsilon) * lanczos.scale
        passed = residuals <= np.maximum(rtol * np.abs(theta[outer]), floor)
        converged = lanczos.exhausted or lanczos.ranks.first_says(bool(passed.all()))
    return Eigenpairs(
        values=theta[outer],
        residuals=residuals,
        vectors=lanczos.combine(coordinates[:, outer]),
        end=end,
        matvecs=lanczos.steps,
        converged=converged,
    )


def _capacity(operator: SymmetricOperator, k: int, max_matvecs: int, memory: int | None) -> int:
    """Vectors of the basis: all, or enough to keep k at one end and go on."""
    size, dtype = operator.size, operator.dtype
    capacity = basis_capacity(size, dtype, operator.device, wanted=max_matvecs, memory=memory)
    capacity = int(ranks_of(operator).least(capacity))
    needed = min(k + _BESIDE, max_matvecs, size)
    if capacity < needed:
        each = size * dtype.itemsize / 2**20
        raise UsageError(
            f"{k} eigenpairs need a basis of {needed + 1} vectors of {each:.3g} MiB, "
            f"{(needed + 1) * each:.3g} MiB in all; {capacity + 1} fit: ask for "
            f"{max(1, capacity - _BESIDE)} pairs, free memory, or restrict the parameters"
        )
    return capacity


def save_eigenvectors(
    path: str | Path, found: Ends | Eigenpairs, *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write eigenvectors, eigenvalues and residuals as safetensors, atomically.

    The file holds `vectors` (k, n), `values` (k,) and `residuals` (k,); of `Ends` the rows are
    v_max and v_min. Read it with `safetensors.torch.load_file`. Equal content gives equal bytes.

    Args:
        path: of the file.
        found: `Ends` measured with `eigenvectors=True`, or `Eigenpairs`.
        metadata: kept as text in the file's header; the row names are added as `rows`.

    Raises:
        UsageError: `Ends` without eigenvectors.
    """
    if isinstance(found, Ends):
        if found.eigenvectors is None:
            raise UsageError("no eigenvectors to save: measure with eigenvectors=True")
        both = (found.lambda_max, found.lambda_min)
        vectors, rows = found.eigenvectors, "v_max v_min"
        values, residuals = [e.value for e in both], [e.residual for e in both]
    else:
        vectors, rows = found.vectors, f"{len(found.values)} from {found.end} inwards"
        values, residuals = found.values.tolist(), found.residuals.tolist()
    tensors = {
        "vectors": vectors.detach().cpu().contiguous(),
        "values": torch.tensor(values, dtype=torch.float64),
        "residuals": torch.tensor(residuals, dtype=torch.float64),
    }
    header = {key: str(value) for key, value in {**(metadata or {}), "rows": rows}.items()}
    write_bytes(path, _in_order(save(tensors, metadata=header)))


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its header sorted: it comes in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # the tensors that follow stay aligned
    return len(header).to_bytes(8, "little") + header + content[end:]
