"""The rounding of a product, measured against the operator's float64 reference."""

from torch import Tensor

from saddlescope.curvature.operators import SymmetricOperator
from saddlescope.errors import OperatorError


def product_noise(
    operator: SymmetricOperator, vector: Tensor, product: Tensor, scale: float, notes: list[str]
) -> float:
    """Measure ‖(H₃₂ − H₆₄)·v‖; 0, and a note, where there is no reference.

    Args:
        operator: in float32.
        vector: v, shape (n,).
        product: H₃₂·v, shape (n,).
        scale: about ‖H‖.
        notes: where to say what a careful reader should know.

    Raises:
        OperatorError: they differ by a tenth of ‖H‖.
    """
    error = operator.product_error(vector, product)
    if error is None:
        notes.append("noise: no float64 reference at hand; taken from the asymmetry alone")
        return 0.0
    if not error <= 0.1 * scale:
        raise OperatorError(
            f"a product differs from its float64 value by {error:.3g} where ‖H‖ is about "
            f"{scale:.3g}: the model is random, or its arithmetic is not {operator.dtype}"
        )
    return error
