"""Escape measured: where each method's steps take a checkpoint, along its own v_min.

The question of Theorem 1 asked of a real network: t whole-batch steps from w_0 with the rule of
each method, without momentum and weight decay, BatchNorm in eval mode. w_0 is a checkpoint, or near
a saddle of the same network that is made by hand; v_min is that of the Hessian of the same loss at
w_0. `along` is ⟨v_min, w_t − w_0⟩, Theorem 1's quantity; v_min's sign is chosen so that SGD's first
step goes along it.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from saddlescope.curvature import Ends, HessianOperator, extreme_eigenvalues
from saddlescope.errors import UsageError
from saddlescope.experiments.manufactured import displace, manufacture
from saddlescope.measurement import Target, WholeLoss, stratified
from saddlescope.runs import METHODS, RadiusOptions
from saddlescope.sharpness import SharpnessAware, method_radii
from saddlescope.stages import counted

ESCAPE_METHODS: Final = tuple(METHODS)
"""All five; SSE-SAM's second stage begins with step γ·t."""

ESCAPE_COLUMNS: Final = (
    "run", "checkpoint", "start", "method", "step", "along", "gradient_along", "gradient_norm",
    "loss", "loss_head", "loss_tail", "lambda_min",
)  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """Which steps are taken, and from where.

    Attributes:
        count: t >= 1.
        eta: step size η > 0.
        methods: of `ESCAPE_METHODS`; those that need head and tail are refused without them.
        start: of `STARTS`: the checkpoint as it is, or a saddle made from it.
        offset: length of a random displacement from there; a method without one may have no way
            out, the gradient being zero.
        gamma: γ of SSE-SAM, a share of the steps.
        samples: that stand for all, of each class its share; None takes all. The loss, its v_min
            and every step are then those of the same few.
        seed: of the start vectors, of the displacement and of the choice of samples.
        batch_size: samples a forward pass; changes memory and speed.

    Raises:
        UsageError: a number out of its range, or an unknown method.
    """

    count: int
    eta: float
    methods: Sequence[str] = ESCAPE_METHODS
    start: str = "checkpoint"
    offset: float = 0.0
    gamma: float = RadiusOptions.gamma
    samples: int | None = None
    seed: int = 0
    batch_size: int = 256

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"samples = {self.samples}: expected at least 1")
        if self.count < 1 or not 0 < self.eta < math.inf or not 0 <= self.offset < math.inf:
            raise UsageError(
                f"steps = {self.count}, eta = {self.eta}, offset = {self.offset}: expected at "
                "least 1 step, η > 0 and an offset >= 0"
            )
        if unknown := [m for m in self.methods if m not in ESCAPE_METHODS]:
            raise UsageError(f"no method {unknown[0]!r}: choose from {', '.join(ESCAPE_METHODS)}")


@dataclass(frozen=True)
class Escape:
    """Where the steps led.

    Attributes:
        ends: of the Hessian at w_0.
        rows: `ESCAPE_COLUMNS` by method and step; λ_min at the first and the last step of each.
    """

    ends: Ends
    rows: list[dict[str, Any]]


def measure_escape(
    target: Target, steps: Steps, *, report: Callable[[str], None] = lambda _: None
) -> Escape:
    """Take t steps with each method from one checkpoint.

    Args:
        target: the checkpoint, its loss and its samples; a copy of the model is moved.
        steps: which, and from where.
        report: told each method when it is done.

    Raises:
        UsageError: no head and tail.
    """
    seed = steps.seed
    model = copy.deepcopy(target.model)
    rule = target.rule
    targets = target.samples.targets
    chosen = None if steps.samples is None else stratified(targets, steps.samples, seed)
    # A saddle of the loss that is measured: its last bias are the class shares of these samples.
    manufacture(
        model, steps.start, targets if chosen is None else targets[chosen.to(targets.device)]
    )
    loss = WholeLoss(
        model, target.criterion, target.samples, rule.group_reduction, steps.batch_size, chosen
    )
    if not loss.grouped and set(steps.methods) - {"sgd", "sam"}:
        raise UsageError("these samples know no head and tail: choose from sgd, sam")
    parameters = loss.whole.vector.tensors
    if steps.offset:
        displace(parameters, steps.offset, seed)
    origin = [p.detach().clone() for p in parameters]
    ends, v_min = _ends(loss, seed)
    _, gradient = loss.whole.value_and_gradient()
    if float(_dot(v_min, gradient)) > 0:  # w − η∇L then goes along +v_min
        v_min = -v_min
    rows: list[dict[str, Any]] = []
    for method in counted("escape", steps.methods, text=str):
        stages = method_radii(method, epochs=steps.count, options=replace(rule, gamma=steps.gamma))
        with torch.no_grad():
            torch._foreach_copy_(parameters, origin)
        optimizer = SharpnessAware(parameters, torch.optim.SGD, radii=stages.at(0), lr=steps.eta)
        for step in counted("step", range(steps.count + 1)):
            row = {
                "run": target.identity["run"],
                "checkpoint": target.identity["checkpoint"],
                "start": steps.start,
                "method": method,
                "step": step,
                **_state(loss, origin, v_min),
                "lambda_min": ends.lambda_min.value if step == 0 else None,
            }
            if step == steps.count:
                row["lambda_min"] = _ends(loss, seed)[0].lambda_min.value
            rows.append(row)
            if step < steps.count:
                optimizer.set_radii(stages.at(step))
                optimizer.step(loss.losses(stages.at(step)))
        report(method)
    return Escape(ends, rows)


def _ends(loss: WholeLoss, seed: int) -> tuple[Ends, Tensor]:
    operator = HessianOperator.from_objective(loss.whole)
    ends = extreme_eigenvalues(operator, seed=seed, eigenvectors=True)
    assert ends.eigenvectors is not None
    return ends, ends.eigenvectors[1]


def _state(loss: WholeLoss, origin: list[Tensor], v_min: Tensor) -> dict[str, Any]:
    """Where w is, and what is seen from there."""
    value, gradient = loss.whole.value_and_gradient()
    now = loss.whole.vector.tensors
    moved = torch.cat([(p.detach() - s).reshape(-1) for p, s in zip(now, origin, strict=True)])
    return {
        "along": float(_dot(v_min, moved)),
        "gradient_along": float(_dot(v_min, gradient)),
        "gradient_norm": float(gradient.double().norm()),
        "loss": value,
        "loss_head": loss.mean("head") if loss.grouped else None,
        "loss_tail": loss.mean("tail") if loss.grouped else None,
    }


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return left.double() @ right.double()
