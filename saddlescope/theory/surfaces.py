"""Smooth saddles that are no quadratics, with gradients and Hessians in closed form.

A quadratic has no second thoughts: it falls for ever along v_min. These do: a strict saddle between
two wells, a monkey saddle whose Hessian vanishes, a two-layer linear network and a matrix
factorisation, whose saddles are strict (Baldi and Hornik, Neural Networks 1989; Ge, Jin, Zheng,
ICML 2017). All take N points at once, in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from saddlescope.errors import UsageError
from saddlescope.theory.trajectories import Array, Share, walk


@dataclass(frozen=True)
class Surface:
    """A loss and its first two derivatives.

    Attributes:
        name: of the saddle.
        saddle: a point where the gradient vanishes and the loss has no minimum, shape (d,).
        loss: points, shape (N, d), to values, shape (N,).
        gradient: to gradients, shape (N, d).
        hessian: to Hessians, shape (N, d, d).
        lowest: the infimum of the loss; −∞ if it has none.
    """

    name: str
    saddle: Array
    loss: Callable[[Array], Array]
    gradient: Callable[[Array], Array]
    hessian: Callable[[Array], Array]
    lowest: float

    def ends_at(self, point: Array) -> tuple[float, float, Array]:
        """Compute λ_max and λ_min at a point, shape (d,), and v_min there, shape (d,)."""
        values, vectors = np.linalg.eigh(self.hessian(point[None])[0])
        return float(values[-1]), float(values[0]), vectors[:, 0]


@dataclass(frozen=True)
class SurfaceShare:
    """A share of a loss that is a multiple of a surface.

    Attributes:
        surface: which.
        start: w_0, shape (N, d).
        radius: ρ of the group, shape (N,).
        weight: the multiple: r for a tail with L_tail = r·L.
    """

    surface: Surface
    start: Array
    radius: Array
    weight: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(N, d)."""
        instances, dimension = self.start.shape
        return instances, dimension

    def at(self, displacement: Array) -> Array:
        """Compute the share's gradient at w_0 + u, shape (N, d)."""
        return self.weight * self.surface.gradient(self.start + displacement)

    def ascended(self, displacement: Array, gradient: Array, scale: Array) -> Array:
        """Compute the share's gradient at w_0 + u + scale·gradient, shape (N, d)."""
        return self.at(displacement + scale[:, None] * gradient)


def escape_steps(
    surface: Surface,
    shares: Sequence[Share],
    start: Array,
    eta: float,
    *,
    drop: float,
    most: int,
    switch: int | None = None,
) -> Array:
    """Steps until the loss lies `drop` below the saddle's; NaN where `most` do not suffice.

    Args:
        surface: whose saddle is left.
        shares: of the loss, started at `start`.
        start: w_0, shape (N, d).
        eta: η.
        drop: > 0.
        most: steps at most.
        switch: see `walk`.

    Returns:
        Shape (N,).
    """
    if not drop > 0:
        raise UsageError(f"drop = {drop}: expected a loss below the saddle's, so above 0")
    level = surface.loss(surface.saddle[None])[0] - drop
    found = np.full(len(start), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = walk(shares, np.full(len(start), eta), most, switch=switch)
        for step, (displacement, _) in enumerate(steps):
            left = np.isnan(found) & (surface.loss(start + displacement) <= level)
            found[left] = step
            if not np.isnan(found).any():
                break
    return found


def double_well(*, up: float = 1.0, down: float = 1.0, depth: float = 0.25) -> Surface:
    """L(x, y) = ½·up·x² − ½·down·y² + c·y⁴/4: a strict saddle between wells of a given depth.

    Args:
        up: λ_max at the saddle.
        down: −λ_min there.
        depth: L(saddle) minus its minimum, at y = ±√(down/c) with c = down²/(4·depth).
    """
    quartic = down**2 / (4.0 * depth)

    def gradient(w: Array) -> Array:
        x, y = w.T
        return np.stack([up * x, -down * y + quartic * y**3], axis=1)

    def hessian(w: Array) -> Array:
        found = np.zeros((len(w), 2, 2))
        found[:, 0, 0] = up
        found[:, 1, 1] = -down + 3.0 * quartic * w[:, 1] ** 2
        return found

    return Surface(
        "double well",
        np.zeros(2),
        lambda w: 0.5 * (up * w[:, 0] ** 2 - down * w[:, 1] ** 2) + 0.25 * quartic * w[:, 1] ** 4,
        gradient,
        hessian,
        -depth,
    )


def monkey_saddle() -> Surface:
    """L(x, y) = x³ − 3xy²: three ways down, and a Hessian that vanishes at the saddle.

    No strict saddle: λ_min = 0 there, λ_ratio is undefined, and Theorem 1 does not apply.
    """

    def hessian(w: Array) -> Array:
        x, y = w.T
        return 6.0 * np.stack([np.stack([x, -y], 1), np.stack([-y, -x], 1)], 1)

    return Surface(
        "monkey saddle",
        np.zeros(2),
        lambda w: w[:, 0] ** 3 - 3.0 * w[:, 0] * w[:, 1] ** 2,
        lambda w: np.stack([3.0 * (w[:, 0] ** 2 - w[:, 1] ** 2), -6.0 * w[:, 0] * w[:, 1]], 1),
        hessian,
        -np.inf,
    )


def two_layer_linear(target: Array, hidden: int) -> Surface:
    """L(W₁, W₂) = ½‖W₂W₁ − M‖², w being W₁ and W₂ row by row; the saddle is the origin.

    Its non-zero eigenvalues there are ±σ(M), each `hidden` times, so λ_ratio = 1.

    Args:
        target: M, shape (p, q), not zero.
        hidden: h, the width of the layer between.
    """
    p, q = target.shape
    split = hidden * q

    def matrices(w: Array) -> tuple[Array, Array]:
        return w[:, :split].reshape(-1, hidden, q), w[:, split:].reshape(-1, p, hidden)

    def residual(w: Array) -> Array:
        first, second = matrices(w)
        return second @ first - target

    def gradient(w: Array) -> Array:
        (first, second), rest = matrices(w), residual(w)
        parts = (second.transpose(0, 2, 1) @ rest, rest @ first.transpose(0, 2, 1))
        return np.concatenate([part.reshape(len(w), -1) for part in parts], axis=1)

    def hessian(w: Array) -> Array:
        (first, second), rest = matrices(w), residual(w)
        n, d = w.shape
        inner = np.eye(hidden)
        found = np.zeros((n, d, d))
        grams = second.transpose(0, 2, 1) @ second, first @ first.transpose(0, 2, 1)
        found[:, :split, :split] = np.einsum("nab,jk->najbk", grams[0], np.eye(q)).reshape(
            n, split, split
        )
        found[:, split:, split:] = np.einsum("nab,ik->niakb", grams[1], np.eye(p)).reshape(
            n, d - split, d - split
        )
        cross = np.einsum("nij,ab->najib", rest, inner) + np.einsum("nia,nbj->najib", second, first)
        found[:, :split, split:] = cross.reshape(n, split, d - split)
        found[:, split:, :split] = found[:, :split, split:].transpose(0, 2, 1)
        return found

    values = np.linalg.svd(target, compute_uv=False)
    return Surface(
        "two-layer linear network",
        np.zeros(split + p * hidden),
        lambda w: 0.5 * (residual(w) ** 2).sum((1, 2)),
        gradient,
        hessian,
        float(0.5 * (values[hidden:] ** 2).sum()),
    )


def matrix_factorisation(target: Array, rank: int) -> Surface:
    """L(U) = ¼‖UUᵀ − M‖², w being U row by row; the saddle is M's leading eigenvector alone.

    At U = √λ₁·q₁·e₁ᵀ the other columns are zero: rank-deficient where more rank would pay. There
    λ_max = 2λ₁(M) along the column that is used, and λ_min = −λ₂(M) along the ones that are not.

    Args:
        target: M, shape (p, p), symmetric and positive semidefinite, with λ₂ > 0.
        rank: columns of U, at least 2.
    """
    p = len(target)

    def factor(w: Array) -> Array:
        return w.reshape(-1, p, rank)

    def residual(w: Array) -> Array:
        return factor(w) @ factor(w).transpose(0, 2, 1) - target

    def hessian(w: Array) -> Array:
        u = factor(w)
        gram = u.transpose(0, 2, 1) @ u
        found = np.einsum("ik,nab->niakb", np.eye(p), gram)
        found += np.einsum("nib,nka->niakb", u, u)
        found += np.einsum("nik,ab->niakb", residual(w), np.eye(rank))
        return found.reshape(len(w), p * rank, p * rank)

    ascending, vectors = np.linalg.eigh(target)
    values = ascending[::-1]
    saddle = np.zeros((p, rank))
    saddle[:, 0] = np.sqrt(values[0]) * vectors[:, -1]
    return Surface(
        "matrix factorisation",
        saddle.reshape(-1),
        lambda w: 0.25 * (residual(w) ** 2).sum((1, 2)),
        lambda w: (residual(w) @ factor(w)).reshape(len(w), -1),
        hessian,
        float(0.25 * (values[rank:] ** 2).sum()),
    )
