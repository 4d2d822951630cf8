"""The curvature along a direction as the loss itself shows it: a check without derivatives.

A second difference of the loss along v must equal vᵀHv, and shares no derivative code with it.
The rounding noise of the loss is measured with the difference table of Moré & Wild, "Estimating
computational noise", SIAM J. Sci. Comput. 33 (2011); the step is chosen by Lepski's rule (Lepskii,
Theory Probab. Appl. 35, 1991): the longest one that agrees with all shorter ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saddlescope.curvature.objective import Objective, displaced
from saddlescope.curvature.operators import ObjectiveOperator, objective_of
from saddlescope.errors import OperatorError, UsageError

_NOISE_ORDER = 6
_NOISE_POINTS = 16


@dataclass(frozen=True)
class MeasuredCurvature:
    """Hold vᵀHv/‖v‖² as the loss itself shows it.

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


def measured_curvature(
    loss: Objective | ObjectiveOperator,
    direction: Tensor,
    *,
    step: float | None = None,
    float64: bool = True,
) -> MeasuredCurvature:
    """Measure the curvature of the loss along v, by forward passes alone.

    D(h) = (L(w+hv) − 2L(w) + L(w−hv))/h² at h and 2h; (4·D(h) − D(2h))/3 is the value. For an
    eigenvector it must agree with λ within `error`. Kinks of the loss (ReLU) within 2h belong to
    the loss and not to H: where they are dense, only the steps that float64 allows get in
    between them, and longer ones show the curvature that the kinks add.

    Args:
        loss: an objective, or an operator of one; its model is left untouched.
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
    objective = objective_of(loss)
    if float64 and objective.vector.dtype != torch.float64:
        try:
            objective = objective.double()
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise UsageError(
                f"{type(objective.model).__name__} cannot be copied to float64 ({error}): pass "
                "float64=False to measure in its own precision"
            ) from error
    with displaced(objective, [direction.double() / length]) as loss_at:
        differences = _Differences(loss_at, objective)
        return differences.scan() if step is None else differences.at(step)


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
        """Measure at the step asked for."""
        (near, rounding), (far, _) = self._second(step), self._second(2.0 * step)
        return self._result((4.0 * near - far) / 3.0, abs(far - near) / 3.0 + rounding, step)

    def scan(self) -> MeasuredCurvature:
        """Measure at the longest step that agrees with every shorter one (Lepski's rule).

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
