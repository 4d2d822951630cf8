"""Derivatives held to differences: torch differentiates some functions wrongly and says nothing.

A fused kernel may lack the second derivative of one of its arguments, a Function that keeps tensors
on `ctx` loses what they depend on, a reentrant checkpoint cuts the graph. The products that come
out belong to no matrix, or to another one. So, on a few samples and in float64:

- H·v as double backward gives it against (∇L(w+hv) − ∇L(w−hv))/2h,
- ⟨∇L, v⟩ against (L(w+hv) − L(w−hv))/2h, from the same evaluations,
- for the parameters that no gradient reaches: that the loss does not move with them.

A kink of the loss (ReLU) within h of w belongs to the differences and not to H. So several steps
are tried, as in `second_difference`: one that agrees is enough, and a disagreement counts only
where two steps agree with one another and not with the derivative.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from saddlescope.curvature.checks.verifying import evaluable
from saddlescope.curvature.memory import is_out_of_memory
from saddlescope.curvature.objective import (
    Objective,
    displaced,
    exact_arithmetic,
    explain,
    torchs_words,
    untouched,
)
from saddlescope.curvature.products import DoubleBackward
from saddlescope.errors import OperatorError, SaddlescopeError

_STEPS = (1e-5, 1e-7, 1e-3, 1e-8, 1e-10)
"""Distances in units of ‖w‖, tried in this order: for float64 the first one is the best; shorter
ones get in between kinks, the long one is for models that round to float32 inside. The last is for
curvature that changes within 1e-8 of w, as of a GroupNorm whose input vanishes."""

_AGREES = {torch.float64: 1e-3, torch.float32: 2e-2}
"""Relative difference that truncation may make."""

_UNSEEN = {torch.float64: 1e6, torch.float32: 1.0}
"""Curvature, in roundings of the loss over ‖w‖², that is not compared: features are larger than w.
In float32 that leaves nothing, and what vanishes there is for float64 to measure."""

_SAMPLES = 2
"""Samples that derivatives are compared on."""

_GRADIENTS_FIRST = 3.0
"""Gradients of the few samples that linearising and one product take."""

NOT_CHECKED = (
    "the second derivatives could not be compared with differences of gradients ({why}): that the "
    "products are those of the loss was not checked"
)


@dataclass
class _Difference:
    """What one step shows, and the rounding to expect in it."""

    product: Tensor
    slope: float
    bend: float  # the one-sided slopes' difference: of a kink at w, or of the curvature
    rounding: float
    slope_rounding: float


@exact_arithmetic()
def check_derivatives(objective: Objective, vector: Tensor | None = None) -> float:
    """Compare double backward with central differences on a few samples, along some direction.

    Args:
        objective: the loss; its notes are added to where nothing can be said.
        vector: shape (n,), for instance a mixture of Ritz vectors; None takes the gradient alone.
            A random vector is added to either.

    Returns:
        What it cost, in gradients of all samples.

    Raises:
        OperatorError: they disagree, with both numbers; or torch cannot differentiate the loss.
    """
    try:
        few = evaluable(objective, _SAMPLES)
        cost = 0.0 if few is None else _check_few(few, objective, vector)
    except _NotDifferentiable as failed:
        error = failed.error
        explain(error, objective.model, objective.criterion, objective.source)
        raise OperatorError(
            f"torch cannot differentiate the loss of a few samples twice: {torchs_words(error)}"
        ) from error
    except Exception as error:
        if isinstance(error, OperatorError):
            raise
        why = "out of memory" if is_out_of_memory(error) else str(error).partition("\n")[0]
        objective.note(NOT_CHECKED.format(why=why or type(error).__name__))
        return 0.0
    return 0.0 if few is None else cost * few.n / objective.n


class _NotDifferentiable(Exception):  # noqa: N818 - what is raised for it says error
    """Torch has refused to differentiate the model itself."""

    def __init__(self, error: RuntimeError) -> None:
        super().__init__()
        self.error = error


@contextmanager
def _own_passes() -> Iterator[None]:
    """Tell what the model's own passes raise from what comparing them does."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error) or isinstance(error, SaddlescopeError):
            raise
        raise _NotDifferentiable(error) from error


def _check_few(few: Objective, objective: Objective, vector: Tensor | None) -> float:
    """Check in float64; in the model's own precision where it can be had in that alone."""
    exact = _in_double(few)
    try:
        return _check(exact, objective, vector)
    except _NotDifferentiable:
        if exact is few:
            raise
    return _check(few, objective, vector)


def _in_double(few: Objective) -> Objective:
    """A few samples' loss in float64; in its own precision where it cannot be copied."""
    if few.vector.dtype == torch.float64:
        return few
    try:
        exact = few.double()
        exact.loss()
        return exact
    except Exception as error:  # whatever a model's deepcopy or its float64 pass raises
        if is_out_of_memory(error):
            raise
        return few


def _check(few: Objective, objective: Objective, vector: Tensor | None) -> float:
    weights = few.vector
    with untouched(few.model), exact_arithmetic(), torch.enable_grad(), _own_passes():
        (batch,) = few.batches()
        made = DoubleBackward(few, batch)
        gradient = weights.flatten([g if g is None else g.detach() for g in made.gradient])
        direction = _direction(gradient, vector)
        product = weights.flatten(made.apply(weights.split(direction)))
        loss = float(made.loss.detach())
        del made
    values = weights.flatten([p.detach() for p in weights.tensors])
    scale = float(torch.linalg.vector_norm(values)) or 1.0
    steps = [step * scale for step in _STEPS]
    if weights.dtype != torch.float64:
        steps = [step * scale for step in (1e-2, 1e-3)]
    differences = _Differences(few, direction, gradient, loss, scale)
    cost = _GRADIENTS_FIRST
    seen: list[_Difference] = []
    for step in steps:
        seen.append(differences.at(step))
        cost += 2.0
        if _verdict(seen, product, float(gradient @ direction)) == (True, True):
            break
    _judge(seen, product, gradient, direction, objective)
    _refuse_lost_gradients(few, gradient, scale)
    return cost


def _direction(gradient: Tensor, vector: Tensor | None) -> Tensor:
    """A unit vector along the given one, the gradient and a random one, each of equal weight."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(gradient), generator=generator, dtype=torch.float64).to(gradient)
    # Where no gradient arrives (a padding row), the derivative is not meant to be the loss's.
    live = gradient != 0
    noise = noise * live if bool(live.any()) else noise
    parts = [noise, gradient] if vector is None else [noise, gradient, vector.to(gradient)]
    norms = [float(torch.linalg.vector_norm(part)) for part in parts]
    units = [part / norm for part, norm in zip(parts, norms, strict=True) if norm > 0.0]
    total = torch.stack(units).sum(0)
    return total / torch.linalg.vector_norm(total)


class _Differences:
    """Central differences of the gradient and of the loss along a direction."""

    def __init__(
        self, few: Objective, direction: Tensor, gradient: Tensor, loss: float, scale: float
    ) -> None:
        self.few, self.direction, self.scale = few, direction, scale
        self.unseen = _UNSEEN[gradient.dtype]
        self.epsilon = 100.0 * float(torch.finfo(gradient.dtype).eps)
        self.size = float(torch.linalg.vector_norm(gradient))
        self.loss = loss

    def at(self, step: float) -> _Difference:
        with displaced(self.few, [self.direction], self._measured) as at:
            (ahead, one), (behind, two) = at((step,)), at((-step,))
        size = max(self.size, float(torch.linalg.vector_norm(one)))
        # A small loss is a difference of logits, which round as numbers of size 1 do: what is less
        # than the rounding of these cannot be seen, in the loss and in its derivatives.
        loss = max(1.0, abs(self.loss), abs(ahead))
        unseen = self.unseen * self.epsilon * loss / self.scale**2
        return _Difference(
            (one - two) / (2.0 * step),
            (ahead - behind) / (2.0 * step),
            abs(ahead - 2.0 * self.loss + behind) / step,
            self.epsilon * size / step + unseen,
            self.epsilon * loss / step,
        )

    def _measured(self) -> tuple[float, Tensor]:
        with _own_passes():
            return self.few.value_and_gradient()


def _verdict(seen: list[_Difference], product: Tensor, slope: float) -> tuple[bool, bool]:
    """Whether product and slope agree with the difference at some step."""
    norm, agrees = float(torch.linalg.vector_norm(product)), _AGREES[product.dtype]
    return (
        any(
            float(torch.linalg.vector_norm(d.product - product)) <= agrees * norm + d.rounding
            for d in seen
        ),
        any(abs(d.slope - slope) <= agrees * abs(slope) + d.slope_rounding for d in seen),
    )


def _settled(off: list[float], apart: Callable[[int, int], float]) -> int | None:
    """A step that agrees with another one far better than with the derivative, if there is one."""
    pairs = [(i, j) for i in range(len(off)) for j in range(i)]
    best = min(pairs, key=lambda pair: apart(*pair), default=None)
    if best is None:
        return None
    return best[1] if apart(*best) <= 0.1 * min(off[best[0]], off[best[1]]) else None


def _judge(
    seen: list[_Difference],
    product: Tensor,
    gradient: Tensor,
    direction: Tensor,
    objective: Objective,
) -> None:
    """Refuse where differences contradict the derivative; note where they contradict themselves."""
    slope = float(gradient @ direction)
    product_agrees, slope_agrees = _verdict(seen, product, slope)
    if not slope_agrees:
        step = _settled(
            [abs(d.slope - slope) for d in seen],
            lambda i, j: abs(seen[i].slope - seen[j].slope),
        )
        # At a kink at w the loss has two slopes, whose mean need not be what torch gives.
        if step is not None and seen[step].bend <= 0.1 * abs(seen[step].slope - slope):
            raise OperatorError(
                f"the gradient is not that of the loss: along a direction it says {slope:.6g}, and "
                f"the loss itself changes by {seen[step].slope:.6g} (central difference in float64 "
                "on a few samples). Likely causes: gradients that are scaled, reversed or passed "
                "straight through (scale_grad_by_freq, a hook, a Function of your own), or "
                "arithmetic in less than float32 inside the model"
            )
    if not product_agrees:
        step = _settled(
            [float(torch.linalg.vector_norm(d.product - product)) for d in seen],
            lambda i, j: float(torch.linalg.vector_norm(seen[i].product - seen[j].product)),
        )
        if step is not None:
            there, here = seen[step].product, product
            raise OperatorError(
                f"torch's second derivative is wrong here: vᵀHv is {float(direction @ here):.6g} "
                f"by double backward and {float(direction @ there):.6g} by a central difference of "
                f"gradients in float64 on a few samples (‖Hv‖ {float(here.norm()):.6g} and "
                f"{float(there.norm()):.6g}). Likely causes: weight_norm, whose fused kernel lacks "
                "it (write g·v/‖v‖ out), a Function that keeps tensors on ctx instead of by "
                "save_for_backward, gradients cut by detach or a checkpoint"
            )
    if not (product_agrees and slope_agrees):
        objective.note(NOT_CHECKED.format(why="the loss has kinks at or near these weights"))


def _refuse_lost_gradients(few: Objective, gradient: Tensor, scale: float) -> None:
    """Refuse parameters that the loss depends on although no gradient reaches them."""
    weights = few.vector
    parts = weights.split(gradient)
    dead = [not bool(part.any()) for part in parts]
    if not any(dead) or all(dead):
        return
    generator = torch.Generator().manual_seed(1)
    step = 1e-5 * scale
    moved = [torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for p in parts]
    directions = [
        weights.flatten([m if i == k else torch.zeros_like(m) for k, m in enumerate(moved)])
        for i, lost in enumerate(dead)
        if lost
    ]
    names = [name for name, lost in zip(weights.names, dead, strict=True) if lost]
    whole = torch.stack(directions).sum(0)

    def slopes(direction: Tensor) -> tuple[float, float, float]:
        unit = direction / torch.linalg.vector_norm(direction)
        with displaced(few, [unit]) as at:
            centre, ahead, behind = at((0.0,)), at((step,)), at((-step,))
        rounding = 100.0 * float(torch.finfo(weights.dtype).eps) * max(1.0, abs(centre)) / step
        return (ahead - centre) / step, (centre - behind) / step, rounding

    def depends(direction: Tensor) -> bool:
        forward, backward, rounding = slopes(direction)
        # One-sided slopes that differ are a kink at w (a ReLU of exact zeros), not a lost gradient.
        least = min(abs(forward), abs(backward))
        return least > 10.0 * rounding and abs(forward - backward) <= 0.01 * least + rounding

    if not depends(whole):
        return
    for name, direction in zip(names, directions, strict=True):
        if depends(direction):
            raise OperatorError(
                f"the loss changes with {name}, but no gradient reaches it: is it used under "
                "no_grad, behind detach, or in a checkpoint with use_reentrant=True whose inputs "
                "need no gradient? Call it with use_reentrant=False, or leave the parameter out "
                "with parameters=..."
            )
