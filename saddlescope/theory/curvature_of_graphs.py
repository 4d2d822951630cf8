"""Eq. 5 and what the paper builds on it: principal curvatures of the graph of the loss.

The graph {(w, L(w))} has the first fundamental form I + ggᵀ and the second H/α, α = √(1 + ‖g‖²);
its principal curvatures are the eigenvalues of the pair, and Eq. 5's W = (I − ggᵀ/α²)H/α is the
Weingarten map (Lee, "Introduction to Riemannian Manifolds", 2018, ch. 8). As the gradient vanishes
W tends to H, and the direction of the smallest principal curvature to v_min: quadratically, since
only ggᵀ enters.
"""

import numpy as np
import scipy.linalg

from saddlescope.theory.statements import Array, Instances, Judgement, Shape, Statement

TOLERANCE = 1e-10
_ROUNDING = 100.0 * np.finfo(np.float64).eps
"""Of the generalised eigenproblem, for each dimension and unit of α², the metric's condition."""


def weingarten(hessian: Array, gradient: Array) -> Array:
    """W of Eq. 5, shape (…, d, d)."""
    alpha = np.sqrt(1.0 + (gradient**2).sum(-1))[..., None, None]
    outer = gradient[..., :, None] * gradient[..., None, :]
    return (np.eye(gradient.shape[-1]) - outer / alpha**2) @ hessian / alpha


def principal_curvatures(hessian: Array, gradient: Array) -> tuple[Array, Array]:
    """From the two fundamental forms, of one graph.

    Args:
        hessian: H, shape (d, d).
        gradient: g, shape (d,).

    Returns:
        The curvatures, ascending, shape (d,), and their directions as columns, of length 1 in the
        metric of the graph, shape (d, d).
    """
    alpha = np.sqrt(1.0 + gradient @ gradient)
    first = np.eye(len(gradient)) + np.outer(gradient, gradient)
    values, vectors = scipy.linalg.eigh(hessian / alpha, first)
    return values, vectors


def observed_order(*, dimension: int = 6, seed: int = 0) -> float:
    """Order in ‖g‖ at which the smallest curvature's direction tends to v_min: 2 is claimed."""
    generator = np.random.default_rng(seed)
    square = generator.standard_normal((dimension, dimension))
    hessian = (square + square.T) / 2.0
    v_min = np.linalg.eigh(hessian)[1][:, 0]
    gradient = generator.standard_normal(dimension)
    gradient /= np.linalg.norm(gradient)
    lengths = 10.0 ** np.linspace(-3.5, -1.0, 26)
    angles = []
    for length in lengths:
        direction = principal_curvatures(hessian, length * gradient)[1][:, 0]
        direction /= np.linalg.norm(direction)
        direction *= np.sign(direction @ v_min)
        angles.append(np.linalg.norm(direction - v_min))
    return float(np.polyfit(np.log(lengths), np.log(angles), 1)[0])


def _decode(points: Array, shape: Shape) -> Instances:
    dimension = shape["dimension"]
    square = (points[:, : dimension**2] - 0.5).reshape(-1, dimension, dimension)
    scale = 10.0 ** (6.0 * points[:, [-1]] - 3.0)
    gradient = points[:, dimension**2 : dimension**2 + dimension] - 0.5
    return {
        "hessian": (square + square.transpose(0, 2, 1)) / 2.0,
        "gradient": gradient * scale,
    }


def _judge(instances: Instances, shape: Shape) -> Judgement:
    """Eigenvalues of W are the principal curvatures, and the smallest has W's eigenvector."""
    del shape
    hessian, gradient = instances["hessian"], instances["gradient"]
    maps = weingarten(hessian, gradient)
    slack = np.empty(len(maps))
    for index, found in enumerate(maps):
        values, vectors = principal_curvatures(hessian[index], gradient[index])
        scale = np.abs(values).max()
        off = np.abs(found @ vectors - vectors * values).max() / (scale * np.abs(vectors).max())
        squared = 1.0 + gradient[index] @ gradient[index]
        slack[index] = 1.0 - off / max(TOLERANCE, _ROUNDING * len(values) * squared)
    # Simplifying a counterexample changes one entry at a time: half of one is no Hessian.
    symmetric = (hessian == hessian.transpose(0, 2, 1)).all((1, 2))
    return Judgement(symmetric, slack)


WEINGARTEN = Statement(
    key="weingarten",
    variant="as printed",
    says="W's eigenpairs are the graph's principal curvatures and directions (to rounding)",
    draw_shape=lambda generator: {"dimension": int(generator.integers(1, 13))},
    unknowns=lambda shape: shape["dimension"] ** 2 + shape["dimension"] + 1,
    decode=_decode,
    judge=_judge,
)
