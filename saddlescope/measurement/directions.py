"""Where each optimiser would move w, from one step of its own rule on the whole training loss.

The rule is `SharpnessAware` itself, driven on a copy of the model with SGD as its base, without
momentum and weight decay: what it hands to the base is minus the update for step size 1. The loss
is that over *all* samples of the split, split into head and tail as in training, with BatchNorm in
eval mode (the network whose Hessian is measured), without augmentation.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saddlescope.curvature import Criterion, Samples
from saddlescope.errors import UsageError
from saddlescope.measurement.whole_loss import WholeLoss
from saddlescope.runs import METHODS, RadiusOptions
from saddlescope.sharpness import method_radii
from saddlescope.wording import exact


@dataclass(frozen=True)
class UpdateRule(RadiusOptions):
    """The radii of all methods, and how samples of head and tail are weighted.

    Attributes:
        group_reduction: see `group_losses`.
    """

    group_reduction: str = "batch"

    def column(self) -> str:
        """Write the radii as a part of a `settings` column."""
        return (
            f"rho={exact(self.rho)} rho_head={exact(self.rho_head)} "
            f"rho_tail={exact(self.rho_tail)} "
            f"group_reduction={self.group_reduction}"
        )


@dataclass(frozen=True)
class Direction:
    """The update of one optimiser.

    Attributes:
        method: its key.
        stage: 1 or 2; only SSE-SAM has two.
        radii: ρ by group.
        parts: the change of each trainable parameter for step size 1, by name.
        cost: gradients of all samples that it took.
    """

    method: str
    stage: int
    radii: Mapping[str, float]
    parts: Mapping[str, Tensor]
    cost: float

    def flat(self, names: tuple[str, ...]) -> Tensor:
        """Return the part of the update that moves these parameters, shape (n,)."""
        return torch.cat([self.parts[name].reshape(-1) for name in names])


def update_directions(
    model: nn.Module,
    criterion: Criterion,
    samples: Samples,
    *,
    rule: UpdateRule | None = None,
    batch_size: int = 256,
) -> tuple[Direction, ...]:
    """Compute the update of every method, of SSE-SAM in both stages.

    Args:
        model: in eval mode; a copy of it is moved.
        criterion: mean loss.
        samples: all of them; without a group "tail", methods that need it are left out.
        rule: the radii; None takes the defaults.
        batch_size: samples a forward pass; changes nothing but memory and speed.

    Raises:
        UsageError: the model cannot be copied.
    """
    rule = UpdateRule() if rule is None else rule
    try:
        moved = copy.deepcopy(model)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UsageError(
            f"{type(model).__name__} cannot be copied ({error}), so no update direction can be "
            "taken: leave alignments out"
        ) from error
    loss = WholeLoss(moved, criterion, samples, rule.group_reduction, batch_size)
    found: dict[tuple[tuple[str, float], ...], tuple[dict[str, Tensor], float]] = {}
    directions = []
    for method in METHODS:
        radii = method_radii(method, epochs=1, options=rule)
        if radii.grouped(0) and not loss.grouped:
            continue
        for stage, chosen in enumerate((radii.first, radii.second), start=1):
            if not chosen:
                continue
            key = tuple(chosen.items())
            if key not in found:  # SSE-SAM's stages are SAM (ext.) and ImbSAM
                found[key] = loss.update(chosen)
            directions.append(Direction(method, stage, chosen, *found[key]))
    return tuple(directions)
