"""Where each optimiser would move w, from one step of its own rule on the whole training loss.

The rule is `SharpnessAware` itself, driven on a copy of the model with SGD as its base, without
momentum and weight decay: what it hands to the base is minus the update for step size 1. The loss
is that over *all* samples of the split, split into head and tail as in training, with BatchNorm in
eval mode (the network whose Hessian is measured), without augmentation.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature import Objective, Samples
from saddlescope.curvature.objective import Criterion
from saddlescope.curvature.samples import SampleBatches
from saddlescope.errors import UsageError
from saddlescope.runs import METHODS
from saddlescope.sharpness import SharpnessAware, group_losses, method_radii


@dataclass(frozen=True)
class UpdateRule:
    """The radii of all methods, and how samples of head and tail are weighted.

    Attributes:
        rho: of SAM.
        rho_head: of the head in SAM (ext.) and in stage 1 of SSE-SAM.
        rho_tail: of the tail.
        group_reduction: see `group_losses`.
    """

    rho: float = 0.05
    rho_head: float = 0.05
    rho_tail: float = 0.10
    group_reduction: str = "batch"

    def column(self) -> str:
        """As a part of a `settings` column."""
        return (
            f"rho={self.rho:g} rho_head={self.rho_head:g} rho_tail={self.rho_tail:g} "
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
        """The part of the update that moves these parameters, shape (n,)."""
        return torch.cat([self.parts[name].reshape(-1) for name in names])


def update_directions(
    model: nn.Module,
    criterion: Criterion,
    samples: Samples,
    *,
    rule: UpdateRule | None = None,
    batch_size: int = 256,
) -> tuple[Direction, ...]:
    """The update of every method, SSE-SAM in both stages.

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
    loss = _WholeLoss(moved, criterion, samples, rule.group_reduction, batch_size)
    found: dict[tuple[tuple[str, float], ...], tuple[dict[str, Tensor], float]] = {}
    directions = []
    for method in METHODS:
        radii = method_radii(
            method, epochs=1, rho=rule.rho, rho_head=rule.rho_head, rho_tail=rule.rho_tail
        )
        if radii.grouped and not loss.grouped:
            continue
        for stage, chosen in enumerate((radii.first, radii.second), start=1):
            if not chosen:
                continue
            key = tuple(chosen.items())
            if key not in found:  # SSE-SAM's stages are SAM (ext.) and ImbSAM
                found[key] = loss.update(chosen)
            directions.append(Direction(method, stage, chosen, *found[key]))
    return tuple(directions)


class _WholeLoss:
    """The loss of each group over all samples, and the update that a rule makes of it."""

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        samples: Samples,
        group_reduction: str,
        batch_size: int,
    ) -> None:
        targets = samples.targets.cpu()
        whole = torch.arange(len(targets))
        members = {"all": whole}
        # What a group's mean loss is multiplied by: the rule of training, asked with losses of 1.
        self._scales = {"all": 1.0}
        groups: Mapping[str, Any] = getattr(samples, "groups", {})
        self.grouped = "tail" in groups
        if self.grouped:
            tail = torch.isin(targets, torch.tensor(list(groups["tail"]), dtype=targets.dtype))
            ones = torch.ones(len(targets), dtype=torch.float64)
            shares = group_losses(ones, tail, group_reduction=group_reduction)
            self._scales |= {name: float(share) for name, share in shares.items()}
            members |= {"head": whole[~tail], "tail": whole[tail]}
        self._objectives = {
            name: Objective(model, criterion, SampleBatches(samples, members[name], batch_size))
            for name in self._scales
        }
        self._vector = self._objectives["all"].vector
        self._total = len(targets)
        self._samples_seen = 0

    def update(self, radii: Mapping[str, float]) -> tuple[dict[str, Tensor], float]:
        """The change of each parameter for step size 1, and its cost in gradients."""
        parameters = self._vector.tensors
        self._samples_seen = 0
        # Step size 0: w stays, and the update is read where the base optimiser would read it,
        # without the cancellation in (w + update) − w.
        optimizer = SharpnessAware(parameters, torch.optim.SGD, radii=radii, lr=0.0)
        optimizer.step(lambda: _Losses(self, tuple(n for n in radii if n in self._scales)))
        parts = {
            name: torch.zeros_like(p) if p.grad is None else -p.grad
            for name, p in zip(self._vector.names, parameters, strict=True)
        }
        return parts, self._samples_seen / self._total

    def group(self, name: str) -> Tensor:
        """The loss of a group as a scalar whose gradient is that over all its samples.

        The samples do not fit into one graph. Their gradient g is summed batch by batch, and the
        loss handed on is value + ⟨g, w − w₀⟩ at w = w₀.
        """
        objective, scale = self._objectives[name], self._scales[name]
        value, gradient = objective.value_and_gradient()
        self._samples_seen += objective.n
        slopes = self._vector.split(gradient * scale)
        linear = [
            (slope * (p - p.detach())).sum()
            for slope, p in zip(slopes, self._vector.tensors, strict=True)
        ]
        return scale * value + torch.stack(linear).sum()


class _Losses(Mapping[str, Tensor]):
    """Losses by group, each computed when it is asked for: a perturbed pass asks for one."""

    def __init__(self, loss: _WholeLoss, names: tuple[str, ...]) -> None:
        self._loss, self._names = loss, names

    def __getitem__(self, name: str) -> Tensor:
        return self._loss.group(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
