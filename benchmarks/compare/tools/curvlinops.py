"""curvlinops 3: its Hessian exported to SciPy, and ARPACK's `eigsh` at both ends."""

from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from benchmarks.compare.problems import Problem
from benchmarks.compare.tools.base import Answer, Multiply, Setting

_MOST = 400
"""Products after which it is stopped: in float32 machine precision may never be met."""


class _StoppedError(Exception):
    """Out of products."""


class Curvlinops:
    """`HessianLinearOperator(...).to_scipy()` in `scipy.sparse.linalg.eigsh(which="BE")`."""

    key = "curvlinops + SciPy"
    package = "curvlinops-for-pytorch"
    gives_both = True
    ordered = False
    # SciPy's own: machine precision, 20 vectors.
    defaults: list[Setting] = [{"tol": 0.0}]  # noqa: RUF012
    rehearses = True
    brief: Setting = {"tol": 0.1, "ncv": 20, "most": 2}  # noqa: RUF012

    def settings(self) -> list[Setting]:
        """ARPACK's tolerances and basis sizes, the check of determinism left out."""
        return [
            {"tol": 0.3, "ncv": 20},
            {"tol": 0.1, "ncv": 10},
            {"tol": 0.1, "ncv": 20},
            {"tol": 0.1, "ncv": 30},
            {"tol": 0.03, "ncv": 20},
            {"tol": 0.01, "ncv": 20},
        ]

    def refuses(self, problem: Problem) -> str | None:  # noqa: ARG002
        """See `Tool.refuses`."""
        return None

    def ends(
        self, problem: Problem, setting: Setting, seed: int, *, multiply: Multiply | None = None
    ) -> Answer:
        """See `Tool.ends`."""
        if multiply is None:
            from curvlinops import HessianLinearOperator

            tuned = "ncv" in setting
            matrix = HessianLinearOperator(
                problem.model,
                problem.criterion,
                list(problem.model.parameters()),
                problem.batches(),
                check_deterministic=not tuned,
                num_data=len(problem.targets) if tuned else None,
            ).to_scipy()
        else:
            given = multiply

            def rehearse(vector: np.ndarray) -> np.ndarray:
                moved = torch.as_tensor(vector.reshape(-1)).to(problem.device, problem.dtype)
                return given(moved).cpu().numpy()

            kind = np.dtype(str(problem.dtype).removeprefix("torch."))
            matrix = LinearOperator((problem.size,) * 2, matvec=rehearse, dtype=kind)
        products, most = 0, setting.get("most", _MOST)

        def counted(vector: np.ndarray) -> np.ndarray:
            nonlocal products
            if products == most:
                raise _StoppedError
            products += 1
            return np.asarray(matrix.matvec(vector))

        operator = LinearOperator(matrix.shape, matvec=counted, dtype=matrix.dtype)
        start = np.random.default_rng(seed).standard_normal(problem.size).astype(matrix.dtype)
        options = {"tol": setting["tol"], "ncv": setting.get("ncv"), "v0": start}
        claims = "converged"
        values: Any
        try:
            values = eigsh(operator, k=2, which="BE", return_eigenvectors=False, **options)
        except ArpackNoConvergence as error:
            values, claims = error.eigenvalues, "not converged"
        except _StoppedError:
            values, claims = np.empty(0), f"stopped after {most} products"
        return Answer(
            lambda_max=float(values.max()) if len(values) else None,
            lambda_min=float(values.min()) if len(values) > 1 else None,
            products=products,
            claims=claims,
        )
