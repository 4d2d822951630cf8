"""The loss along directions, and what the loss itself says of an eigenvalue.

Slices w + a·v and planes w + a·v + b·u (Li et al., "Visualizing the loss landscape of neural
nets", NeurIPS 2018, with eigenvectors in place of random directions). A second difference of the
loss along v must equal vᵀHv: a check of λ that shares no derivative code with it. The rounding
noise of the loss is measured with the difference table of Moré & Wild, "Estimating computational
noise", SIAM J. Sci. Comput. 33 (2011); the step is chosen by Lepski's rule (Lepskii, Theory
Probab. Appl. 35, 1991): the longest one that agrees with all shorter ones.

The model is left as it was bit by bit: its parameters are pointed at a scratch vector while the
loss is evaluated, never written to, so retained graphs of an operator stay valid.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saddlescope.curvature.extreme import Ends
from saddlescope.curvature.objective import Objective
from saddlescope.errors import OperatorError, UsageError

_NOISE_ORDER = 6
_NOISE_POINTS = 16


@dataclass(frozen=True)
class LossSlice:
    """L(w + a·v).

    Attributes:
        radii: a, shape (m,).
        losses: shape (m,), float64.
    """

    radii: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True)
class LossPlane:
    """L(w + a·v + b·u).

    Attributes:
        first_radii: a, shape (m,).
        second_radii: b, shape (l,).
        losses: shape (m, l), float64.
    """

    first_radii: np.ndarray
    second_radii: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True)
class MeasuredCurvature:
    """vᵀHv/‖v‖² as the loss itself shows it.

    Attributes:
        value: from second differences at `step` and 2·`step`, extrapolated once.
        error: estimated error, truncation and rounding together; an estimate, not a bound.
        step: distance from w, in the units of w.
        noise: standard deviation of the loss's rounding errors near w.
        evaluations: losses evaluated.
    """

    value: float
    error: float
    step: float
    noise: float
    evaluations: int


@dataclass(frozen=True)
class Alignment:
    """How a vector lies to the extreme eigenvectors.

    Attributes:
        name: of the vector.
        norm: its length.
        v_max: cosine of its angle with v_max.
        v_min: cosine of its angle with v_min.
    """

    name: str
    norm: float
    v_max: float
    v_min: float


def loss_slice(objective: Objective, direction: Tensor, radii: Sequence[float]) -> LossSlice:
    """Evaluate L(w + a·v) for each a.

    Args:
        objective: the loss; its model is left untouched.
        direction: v, shape (n,), taken as it is: of unit length, `radii` are distances.
        radii: a, any number of them.

    Raises:
        UsageError: a direction of the wrong shape or not finite.
    """
    offsets = np.asarray(radii, float)
    with _displaced(objective, [direction]) as loss_at:
        losses = [loss_at((float(a),)) for a in offsets]
    return LossSlice(offsets, np.array(losses, float))


def loss_plane(
    objective: Objective,
    first: Tensor,
    second: Tensor,
    radii: Sequence[float],
    *,
    second_radii: Sequence[float] | None = None,
) -> LossPlane:
    """Evaluate L(w + a·v + b·u) for each pair (a, b).

    Args:
        objective: the loss; its model is left untouched.
        first: v, shape (n,), taken as it is.
        second: u, shape (n,), taken as it is.
        radii: a, and b too unless `second_radii` are given.
        second_radii: b.

    Raises:
        UsageError: a direction of the wrong shape or not finite.
    """
    rows = np.asarray(radii, float)
    columns = rows if second_radii is None else np.asarray(second_radii, float)
    with _displaced(objective, [first, second]) as loss_at:
        losses = [[loss_at((float(a), float(b))) for b in columns] for a in rows]
    return LossPlane(rows, columns, np.array(losses, float).reshape(len(rows), len(columns)))


def measured_curvature(
    objective: Objective,
    direction: Tensor,
    *,
    step: float | None = None,
    float64: bool = True,
) -> MeasuredCurvature:
    """The curvature of the loss along v, by forward passes alone.

    D(h) = (L(w+hv) − 2L(w) + L(w−hv))/h² at h and 2h; (4·D(h) − D(2h))/3 is the value. For an
    eigenvector it must agree with λ within `error`. Kinks of the loss (ReLU) within 2h belong to
    the loss and not to H: where they are dense, only the steps that float64 allows get in
    between them, and longer ones show the curvature that the kinks add.

    Args:
        objective: the loss; its model is left untouched.
        direction: v, shape (n,), any length; it is normalised.
        step: h, a distance; None starts where rounding drowns all and doubles h for as long as
            the value agrees, within rounding, with those of all shorter steps.
        float64: evaluate the loss in float64, on a copy of the model where that is float32.

    Raises:
        UsageError: step not positive, a direction that is zero, not finite or misshapen, or a
            model that cannot be copied to float64.
        OperatorError: the loss is NaN or Inf at w, or at every step tried.
    """
    if step is not None and not (math.isfinite(step) and step > 0.0):
        raise UsageError(f"step = {step}: expected a positive distance")
    length = float(torch.linalg.vector_norm(direction.double()))
    if length == 0.0:
        raise UsageError("the direction is zero: there is no curvature along it")
    if float64 and objective.vector.dtype != torch.float64:
        try:
            objective = objective.double()
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise UsageError(
                f"{type(objective.model).__name__} cannot be copied to float64 ({error}): pass "
                "float64=False to measure in its own precision"
            ) from error
    with _displaced(objective, [direction.double() / length]) as loss_at:
        differences = _Differences(loss_at, objective)
        return differences.scan() if step is None else differences.at(step)


def alignment(direction: Tensor, other: Tensor) -> float:
    """The cosine of the angle between two vectors of shape (n,); NaN where one is zero.

    Raises:
        UsageError: the shapes differ.
    """
    if direction.shape != other.shape or direction.dim() != 1:
        raise UsageError(
            f"vectors of shapes {tuple(direction.shape)} and {tuple(other.shape)}; expected two "
            "flat vectors of one length"
        )
    one, two = direction.detach().double(), other.detach().to(direction.device, torch.float64)
    norms = torch.linalg.vector_norm(one), torch.linalg.vector_norm(two)
    if not (norms[0] > 0 and norms[1] > 0):
        return math.nan
    return max(-1.0, min(1.0, float((one / norms[0]) @ (two / norms[1]))))


def alignments(
    ends: Ends, gradient: Tensor, updates: Mapping[str, Tensor] | None = None
) -> tuple[Alignment, ...]:
    """Cosines of the gradient and of optimiser updates with v_max and v_min.

    An eigenvector's sign is arbitrary: each is turned so that its cosine with the gradient is not
    negative. An update with a negative cosine then moves downhill along that eigenvector. For
    unit vectors in R^n picked at random a cosine is of size 1/√n.

    Args:
        ends: measured with `eigenvectors=True`.
        gradient: ∇L(w), shape (n,); the first row, named "gradient".
        updates: changes of w by name, shape (n,) each.

    Raises:
        UsageError: `ends` without eigenvectors, or a vector of another shape.
    """
    if ends.eigenvectors is None:
        raise UsageError("no eigenvectors to align with: measure with eigenvectors=True")
    oriented = [-v if alignment(v, gradient) < 0.0 else v for v in ends.eigenvectors]
    return tuple(
        Alignment(
            name,
            float(torch.linalg.vector_norm(vector.detach().double())),
            alignment(oriented[0], vector),
            alignment(oriented[1], vector),
        )
        for name, vector in {"gradient": gradient, **(updates or {})}.items()
    )


class _Differences:
    """Extrapolated second differences over a range of steps, and the noise behind them."""

    def __init__(self, loss_at: Callable[[tuple[float, ...]], float], objective: Objective) -> None:
        self.loss_at = loss_at
        self.evaluations = 0
        self.epsilon = float(torch.finfo(objective.vector.dtype).eps)
        self.centre = self._loss(0.0)
        if not math.isfinite(self.centre):
            raise OperatorError(f"the loss is {self.centre} at w: it has no curvature there")
        weights = objective.vector.flatten([p.detach() for p in objective.vector.tensors])
        self.scale = float(torch.linalg.vector_norm(weights.double())) or 1.0
        # Near enough for no kink and no sixth derivative to count, far enough for the weights'
        # own rounding to take part: some tens of units in the last place.
        self.noise = self._measure_noise(0.01 * math.sqrt(self.epsilon) * self.scale)

    def at(self, step: float) -> MeasuredCurvature:
        """At the step asked for."""
        (near, rounding), (far, _) = self._second(step), self._second(2.0 * step)
        return self._result((4.0 * near - far) / 3.0, abs(far - near) / 3.0 + rounding, step)

    def scan(self) -> MeasuredCurvature:
        """At the longest step that agrees with every shorter one (Lepski's rule).

        Each step gives an interval, value ± rounding. The short ones are wide and right, so that
        a longer one that leaves them out has been bent by higher derivatives or by kinks.
        """
        step = 0.1 * math.sqrt(self.epsilon) * self.scale
        lower, upper = -math.inf, math.inf
        value, error, best = math.nan, math.inf, step
        near, rounding = self._second(step)
        while step <= 0.1 * self.scale:
            far, following = self._second(2.0 * step)
            found = (4.0 * near - far) / 3.0
            if not math.isfinite(found) or found - rounding > upper or found + rounding < lower:
                break
            lower, upper = max(lower, found - rounding), min(upper, found + rounding)
            change = abs(far - near) / 3.0 if math.isnan(value) else abs(found - value)
            value, error, best = found, 2.0 * (change + rounding), step
            step, near, rounding = 2.0 * step, far, following
        return self._result(value, error, best)

    def _result(self, value: float, error: float, step: float) -> MeasuredCurvature:
        if not math.isfinite(value):
            raise OperatorError("the loss is NaN or Inf a step away from w: try a smaller step")
        return MeasuredCurvature(value, error, step, self.noise, self.evaluations)

    def _loss(self, radius: float) -> float:
        self.evaluations += 1
        return self.loss_at((radius,))

    def _second(self, step: float) -> tuple[float, float]:
        """D(step), and the rounding error to expect in (4·D(step) − D(2·step))/3.

        Six standard deviations of it under independent errors: σ itself comes from a few values.
        """
        ahead, behind = self._loss(step), self._loss(-step)
        # Differences first: they are exact in floating point where the losses are close.
        rise = (ahead - self.centre) + (behind - self.centre)
        noise = max(self.noise, self._last_place(max(abs(ahead), abs(behind))))
        return rise / step**2, 20.0 * noise / step**2

    def _last_place(self, loss: float) -> float:
        """Half a unit in the last place of a loss: less cannot be seen."""
        return 0.5 * self.epsilon * abs(loss)

    def _measure_noise(self, spacing: float) -> float:
        """σ² = (k!)²/(2k)!·mean (Δᵏf)² for the k-th differences of equally spaced values."""
        offsets = spacing * (np.arange(_NOISE_POINTS) - 0.5 * (_NOISE_POINTS - 1))
        losses = np.array([self._loss(float(offset)) for offset in offsets])
        differences = np.diff(losses - self.centre, n=_NOISE_ORDER)
        factor = math.factorial(_NOISE_ORDER) ** 2 / math.factorial(2 * _NOISE_ORDER)
        found = math.sqrt(factor * float((differences**2).mean()))
        return max(found if math.isfinite(found) else 0.0, self._last_place(self.centre))


@contextmanager
def _displaced(
    objective: Objective, directions: Sequence[Tensor]
) -> Iterator[Callable[[tuple[float, ...]], float]]:
    """Yield coefficients ↦ L(w + Σ coefficient·direction); w is as before when the block ends.

    The parameters' `.data` point into one scratch vector meanwhile. Their own storage is never
    written, so they come back bit by bit, and with them their version counters.
    """
    weights = objective.vector
    moves = []
    for direction in directions:
        weights.split(direction)  # refuses another shape, in words
        if not bool(torch.isfinite(direction).all()):
            raise UsageError("the direction holds NaN or Inf")
        moves.append(direction.detach().to(weights.device, weights.dtype))
    origins = [parameter.data for parameter in weights.tensors]
    base = weights.flatten(origins)
    scratch = base.clone()

    def loss_at(coefficients: tuple[float, ...]) -> float:
        scratch.copy_(base)
        for coefficient, move in zip(coefficients, moves, strict=True):
            if coefficient:
                scratch.add_(move, alpha=coefficient)
        return objective.loss()

    try:
        for parameter, view in zip(weights.tensors, weights.split(scratch), strict=True):
            parameter.data = view
        yield loss_at
    finally:
        for parameter, origin in zip(weights.tensors, origins, strict=True):
            parameter.data = origin
