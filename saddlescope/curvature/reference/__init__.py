"""The same question by other means: λ_max and λ_min of a mean loss, to hold the instrument to.

Nothing here runs the instrument's Lanczos process, its bounds, its folding or its traced products.
Three tools, all on a float64 copy of the model and one batch: the dense Hessian (`dense`), SciPy's
`eigsh` and PyHessian's power iteration (`peers`).
"""

from saddlescope.curvature.reference.dense import (
    DENSE_LIMIT,
    dense_hessian,
    dense_matrix,
    dense_reference,
)
from saddlescope.curvature.reference.peers import eigsh_reference, pyhessian_reference
from saddlescope.curvature.reference.plain import PlainHessian, Reference

__all__ = [
    "DENSE_LIMIT", "PlainHessian", "Reference", "dense_hessian", "dense_matrix", "dense_reference",
    "eigsh_reference", "pyhessian_reference",
]  # fmt: skip
