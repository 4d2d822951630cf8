"""The training loss over all samples, by group, for steps of whole batches that fit no memory."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature import Criterion, Objective, SampleBatches, Samples
from saddlescope.sharpness import SharpnessAware, group_factors


class WholeLoss:
    """The loss of each group over all samples, and what a rule makes of it.

    Args:
        model: in eval mode; its parameters are what moves.
        criterion: of the loss, by its own reduction.
        samples: all of them.
        group_reduction: see `group_losses`.
        batch_size: samples a forward pass.
        chosen: positions of the samples that stand for all, shape (m,); None takes them all.

    Attributes:
        grouped: whether the samples know head and tail.
        members: which samples are in a group, by its name.
        whole: the objective of all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        samples: Samples,
        group_reduction: str,
        batch_size: int,
        chosen: Tensor | None = None,
    ) -> None:
        members = group_members(samples)
        if chosen is not None:
            members = {name: m[torch.isin(m, chosen)] for name, m in members.items()}
        total = len(members["all"])
        self.grouped = "tail" in members
        self.members = {name: m for name, m in members.items() if len(m)}
        self._objectives = {
            name: Objective(model, criterion, SampleBatches(samples, m, batch_size))
            for name, m in self.members.items()
        }
        self.whole = self._objectives["all"]
        self._scales = {"all": 1.0}
        if self.grouped:
            counts = {name: len(members[name]) for name in ("head", "tail")}
            factors = group_factors(counts["tail"], total, group_reduction=group_reduction)
            self._scales |= {
                name: factor * counts[name] * self._weighed(name, group_reduction)
                for name, factor in factors.items()
            }
        self._vector = self.whole.vector
        self._total = total
        self._samples_seen = 0

    def _weighed(self, name: str, group_reduction: str) -> float:
        """What a group's loss counts for by its criterion, in units of its share of the samples.

        A criterion with class weights divides by their sum, one with a sum by nothing: groups add
        up to the whole only in its own shares.
        """
        own, whole = self._objectives[name], self.whole
        share = own.n / whole.n
        if group_reduction == "group":  # the mean over its own samples, in the whole's units
            return 1.0 if own.reduction == "mean" else 1.0 / share
        return own.divisor / whole.divisor / share

    def update(self, radii: Mapping[str, float]) -> tuple[dict[str, Tensor], float]:
        """Compute the change of each parameter for step size 1, and its cost in gradients."""
        parameters = self._vector.tensors
        self._samples_seen = 0
        # Step size 0: w stays, and the update is read where the base optimiser would read it,
        # without the cancellation in (w + update) − w.
        optimizer = SharpnessAware(parameters, torch.optim.SGD, radii=radii, lr=0.0)
        optimizer.step(self.losses(radii))
        parts = {
            name: torch.zeros_like(p) if p.grad is None else -p.grad
            for name, p in zip(self._vector.names, parameters, strict=True)
        }
        return parts, self._samples_seen / self._total

    def losses(self, radii: Mapping[str, float]) -> Callable[[], Mapping[str, Tensor]]:
        """Return what `SharpnessAware.step` asks for the losses of the groups with a radius."""
        names = tuple(name for name in radii if name in self._scales)
        return lambda: _Losses(self, names)

    def mean(self, name: str) -> float:
        """Compute the mean loss of a group's samples."""
        return self._objectives[name].loss()

    def gradient(self, name: str) -> Tensor:
        """Compute the gradient of a group's share of the loss, shape (n,), float64."""
        return self._objectives[name].value_and_gradient()[1].double() * self._scales[name]

    def group(self, name: str) -> Tensor:
        """Compute a group's loss as a scalar whose gradient is that over all its samples.

        The samples do not fit into one graph. Their gradient g is summed batch by batch, and the
        loss handed on is value + ⟨g, w − w₀⟩ at w = w₀.
        """
        objective, scale = self._objectives[name], self._scales[name]
        value, gradient = objective.value_and_gradient()
        self._samples_seen += objective.n
        slopes = self._vector.split(gradient * scale)
        with torch.enable_grad():  # asked for in the middle of an optimiser's step, which has none
            linear = [
                (slope * (p - p.detach())).sum()
                for slope, p in zip(slopes, self._vector.tensors, strict=True)
            ]
            return scale * value + torch.stack(linear).sum()


def group_members(samples: Samples) -> dict[str, Tensor]:
    """List the samples in "all" and, where they are told apart, in "head" and "tail"."""
    targets = samples.targets.cpu()
    whole = torch.arange(len(targets))
    groups: Mapping[str, Any] = getattr(samples, "groups", {})
    if "tail" not in groups:
        return {"all": whole}
    tail = torch.isin(targets, torch.tensor(list(groups["tail"]), dtype=targets.dtype))
    return {"all": whole, "head": whole[~tail], "tail": whole[tail]}


def stratified(targets: Tensor, count: int, seed: int) -> Tensor:
    """Choose about `count` samples at random, of each class its share and at least one.

    Args:
        targets: class numbers, shape (n,).
        count: at least 1; n or more takes all.
        seed: of the choice.

    Returns:
        Positions in ascending order.
    """
    generator = torch.Generator().manual_seed(seed)
    share = min(1.0, count / len(targets))
    parts = []
    for members in (torch.nonzero(targets.cpu() == c)[:, 0] for c in targets.cpu().unique()):
        few = max(1, round(share * len(members)))
        parts.append(members[torch.randperm(len(members), generator=generator)[:few]])
    return torch.cat(parts).sort().values


class _Losses(Mapping[str, Tensor]):
    """Losses by group, each computed when it is asked for: a perturbed pass asks for one."""

    def __init__(self, loss: WholeLoss, names: tuple[str, ...]) -> None:
        self._loss, self._names = loss, names

    def __getitem__(self, name: str) -> Tensor:
        return self._loss.group(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
