"""The worst point of a ball around w: of the loss (Eq. 2) and of λ_max (Theorem 6).

Eq. 2 maximises the loss over ‖ε‖ <= ρ and takes ε = ρ∇L/‖∇L‖ for the maximum. Here the maximum is
sought by projected gradient ascent from that point and from random ones; what is found is a lower
bound of it, and no less than the first-order point's loss.

Theorem 6 contains the largest λ_max over a ball. It is sought among w, the two points above, and
w ± ρ·v_max: the largest of them is a lower bound, so a bound that is vacuous with it is vacuous.
"""

import math
from typing import Any

import torch
from torch import Tensor

from saddlescope.curvature import HessianOperator, Objective, extreme_eigenvalues
from saddlescope.errors import UsageError
from saddlescope.experiments.moving import kept, move_to
from saddlescope.measurement import Target, group_members
from saddlescope.stages import counted

SHARPEST_COLUMNS = (
    "run", "checkpoint", "name", "n", "rho", "loss", "gain_linear", "gain_first_order",
    "gain_ascent", "ratio", "cosine", "length",
)  # fmt: skip


def inner_maximum(
    target: Target,
    *,
    rho: float | None = None,
    steps: int = 20,
    starts: int = 2,
    seed: int = 0,
    batch_size: int = 256,
) -> list[dict[str, Any]]:
    """Solve Eq. 2 at a checkpoint, for all samples and, where known, for head and tail.

    Args:
        target: the checkpoint.
        rho: ρ > 0; the target's radius for each group by default.
        steps: of projected ascent from each start; the step size is ρ/2 at first and halved
            whenever the loss falls.
        starts: random points on the sphere, beside the first-order point.
        seed: of the random points.
        batch_size: samples a forward pass; changes memory and speed.

    Returns:
        Rows of `SHARPEST_COLUMNS`. Gains are losses above L(w): `gain_linear` is ρ‖∇L‖,
        `gain_first_order` that at w + ρ∇L/‖∇L‖, `gain_ascent` the largest found; `ratio` is the
        second over the third, `cosine` that between the two ε, `length` ‖ε‖/ρ of the largest.

    Raises:
        UsageError: a number out of its range.
    """
    if steps < 1 or starts < 0 or (rho is not None and not 0 < rho < math.inf):
        raise UsageError(
            f"steps = {steps}, starts = {starts}, rho = {rho}: expected at least 1 step, no fewer "
            "than 0 starts and rho > 0"
        )
    rule = target.rule
    radii = {"all": rule.rho, "head": rule.rho_head, "tail": rule.rho_tail}
    rows = []
    groups = group_members(target.samples).items()
    for name, members in counted("group", groups, text=lambda group: group[0]):
        radius = radii[name] if rho is None else rho
        if radius > 0 and len(members):
            objective = target.objective(members, batch_size)
            rows.append(
                {
                    "run": target.identity["run"],
                    "checkpoint": target.identity["checkpoint"],
                    "name": name,
                    "n": len(members),
                    "rho": radius,
                    **_search(objective, radius, steps, starts, seed),
                }
            )
    return rows


def largest_curvature(
    target: Target, *, rho: float, steps: int = 20, seed: int = 0, batch_size: int = 256
) -> dict[str, float]:
    """Measure λ_max of the loss over all samples at the points of the ball that are tried.

    Args:
        target: the checkpoint.
        rho: ρ > 0, the radius of the ball.
        steps: of the projected ascent that finds one of the points.
        seed: of the start vectors.
        batch_size: samples a forward pass; changes memory and speed.

    Returns:
        The upper bound of λ_max's interval by point: "w", "first order", "ascent", "+v_max",
        "-v_max".

    Raises:
        UsageError: ρ or the steps out of range.
    """
    if not 0 < rho < math.inf or steps < 1:
        raise UsageError(f"rho = {rho}, steps = {steps}: expected rho > 0 and at least 1 step")
    whole = torch.arange(len(target.samples.targets))
    objective = target.objective(whole, batch_size)
    found = {}
    with kept(objective.vector) as origin:
        ends = extreme_eigenvalues(
            HessianOperator.from_objective(objective), seed=seed, eigenvectors=True
        )
        assert ends.eigenvectors is not None
        found["w"] = ends.lambda_max.upper
        _, gradient = objective.value_and_gradient()
        first = _onto(gradient, rho)
        best, _ = _ascend(objective, origin, first, rho, steps)
        v_max = _onto(ends.eigenvectors[0].to(origin), rho)
        points = {"first order": first, "ascent": best, "+v_max": v_max, "-v_max": -v_max}
        for name, epsilon in counted("point", points.items(), text=lambda point: point[0]):
            move_to(objective.vector, origin + epsilon)
            operator = HessianOperator.from_objective(objective)
            found[name] = extreme_eigenvalues(operator, seed=seed).lambda_max.upper
    return found


def _search(
    objective: Objective, rho: float, steps: int, starts: int, seed: int
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    with kept(objective.vector) as origin:
        loss, gradient = objective.value_and_gradient()
        first = _onto(gradient, rho)
        move_to(objective.vector, origin + first)
        at_first = objective.loss()
        best, most = first, at_first
        noise = [torch.randn(len(origin), generator=generator) for _ in range(starts)]
        begins = [first, *(_onto(n.to(origin), rho) for n in noise)]
        for begin in counted("start", begins):
            epsilon, value = _ascend(objective, origin, begin, rho, steps)
            if value > most:
                best, most = epsilon, value
    gain = most - loss
    return {
        "loss": loss,
        "gain_linear": rho * float(gradient.double().norm()),
        "gain_first_order": at_first - loss,
        "gain_ascent": gain,
        "ratio": (at_first - loss) / gain if gain > 0 else math.nan,
        "cosine": float(
            torch.nn.functional.cosine_similarity(first.double(), best.double(), dim=0)
        ),
        "length": float(best.double().norm()) / rho,
    }


def _ascend(
    objective: Objective, origin: Tensor, start: Tensor, rho: float, steps: int
) -> tuple[Tensor, float]:
    """Projected gradient ascent: the best point seen, as ε, and its loss."""
    move_to(objective.vector, origin + start)
    value, gradient = objective.value_and_gradient()
    best, most, stride = start, value, 0.5 * rho
    for _ in counted("step", range(steps)):
        trial = best + _onto(gradient, stride)
        length = trial.norm()
        if length > rho:
            trial = trial * (rho / length)
        move_to(objective.vector, origin + trial)
        value, slope = objective.value_and_gradient()
        if value > most:
            best, most, gradient = trial, value, slope
        else:
            stride *= 0.5
    return best, most


def _onto(vector: Tensor, length: float) -> Tensor:
    """The vector at a given length; zero stays."""
    norm = vector.norm()
    return vector * (length / norm) if norm > 0 else torch.zeros_like(vector)
