"""One optimiser for the whole SAM family (Foret et al. 2021; Zhou et al. 2023; Eq. 13-14).

The rule: for groups g with losses L_g and radii ρ_g, the base optimiser receives

    Σ_g ∇L_g(w + ε_g),   ε_g = ρ_g·∇L_g(w)/‖∇L_g(w)‖   (global L2 norm, no weight decay).

Passes are the fewest the rule allows: one forward at w serves every group, groups with ρ_g = 0
share one backward, and each perturbed group costs one backward at w, one forward and one
backward at w + ε_g. Forward/backward: SGD 1/1, SAM 2/2, ImbSAM 2/3, SAM (ext.) 3/4.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from saddlescope.errors import UsageError

Losses = Callable[[], Mapping[str, Tensor]]


class SharpnessAware(Optimizer):
    """Sharpness-aware minimisation over groups of samples, around any base optimiser.

    Args:
        params: parameters or parameter groups, as for any optimiser.
        base: makes the base optimiser: a class such as `torch.optim.SGD`.
        radii: group name to ρ_g >= 0. A group that is missing here is an error at the step.
        model: needed for `bn_statistics="clean"`, whose BatchNorm layers it finds.
        bn_statistics: "clean" lets only the forward at w update BatchNorm's running
            statistics; "every-pass" lets perturbed forwards update them too (as the paper's
            code does).
        total: adds up a flat vector over the processes that share a batch, in place, such as
            `torch.distributed.all_reduce`; then `losses` returns this process's part of each loss,
            every group on every process. Called once for all ascent directions and once for the
            update, whatever the number of groups. None for one process alone.
        **options: handed to `base` (lr, momentum, weight_decay, …).

    Raises:
        UsageError: a negative or non-finite radius, an unknown `bn_statistics`, "clean"
            without a model.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> sam = SharpnessAware([w], torch.optim.SGD, radii={"all": 0.5}, lr=0.1)
        >>> _ = sam.step(lambda: {"all": 0.5 * w.square().sum()})
        >>> w.data
        tensor([2.6700, 3.5600])
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Callable[..., Optimizer],
        *,
        radii: Mapping[str, float],
        model: nn.Module | None = None,
        bn_statistics: str = "every-pass",
        total: Callable[[Tensor], object] | None = None,
        **options: Any,
    ) -> None:
        if bn_statistics not in ("clean", "every-pass"):
            raise UsageError(f"bn_statistics = {bn_statistics!r}: expected 'clean' or 'every-pass'")
        if bn_statistics == "clean" and model is None:
            raise UsageError("bn_statistics='clean' needs model=... to find its BatchNorm layers")
        self.base = base(params, **options)
        super().__init__(self.base.param_groups, dict(self.base.defaults))
        # One list of groups: schedulers that write to this optimiser write to the base's.
        self.param_groups = self.base.param_groups
        self._norms = [
            module
            for module in (model.modules() if model is not None else ())
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        self._clean = bn_statistics == "clean"
        self._total = total
        self.set_radii(radii)

    def set_radii(self, radii: Mapping[str, float]) -> None:
        """Replace the radii, as SSE-SAM does when its second stage begins."""
        for name, rho in radii.items():
            if not 0.0 <= rho < float("inf"):
                raise UsageError(f"radius of group {name!r} is {rho}: expected a number >= 0")
        self.radii = dict(radii)

    @torch.no_grad()
    def step(self, losses: Losses) -> dict[str, Tensor]:  # type: ignore[override]
        """Take one step.

        Args:
            losses: runs one forward over the *whole* batch (BatchNorm couples the groups) and
                returns the loss of each group as a scalar with a graph; a group without samples
                in the batch is left out.

        Returns:
            The losses at w by group, detached.

        Raises:
            UsageError: no group at all, or a group without a radius.
        """
        parameters = [p for g in self.param_groups for p in g["params"] if p.requires_grad]
        with torch.enable_grad():
            at_start = dict(losses())
        unknown = sorted(set(at_start) - set(self.radii))
        if unknown or not at_start:
            raise UsageError(
                f"losses() returned group {unknown[0]!r}, which has no radius ({self.radii})"
                if unknown
                else "losses() returned no group: there is nothing to descend"
            )
        perturbed = [name for name in at_start if self.radii[name] > 0.0]
        plain = [loss for name, loss in at_start.items() if self.radii[name] == 0.0]

        # Backward passes at w, the graph kept until the last of them.
        ascent = {}
        for index, name in enumerate(perturbed):
            last = not plain and index == len(perturbed) - 1
            ascent[name] = _gradients([at_start[name]], parameters, retain=not last)
        update: list[Tensor | None] = [None] * len(parameters)
        if plain:
            update = _gradients(plain, parameters)
        # Each radius is measured along the whole batch's gradient, whoever has its samples.
        self._add_up([gradient for name in perturbed for gradient in ascent[name]])

        if perturbed:
            origin = [p.clone() for p in parameters]
            for name in perturbed:
                _ascend(parameters, ascent.pop(name), self.radii[name])
                with self._statistics_frozen(), torch.enable_grad():
                    loss = losses()[name]
                update = _add(update, _gradients([loss], parameters))
                torch._foreach_copy_(parameters, origin)

        self._add_up(update)
        for parameter, gradient in zip(parameters, update, strict=True):
            parameter.grad = gradient
        self.base.step()
        return {name: loss.detach() for name, loss in at_start.items()}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear `.grad`; `step` sets it anew, so a training loop need not call this."""
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The base optimiser's state, and the radii in force."""
        return {"base": self.base.state_dict(), "radii": dict(self.radii)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.base.load_state_dict(state_dict["base"])
        self.param_groups = self.base.param_groups
        self.set_radii(state_dict["radii"])

    def _add_up(self, gradients: list[Tensor | None]) -> None:
        """Sum over processes, in place, in one message."""
        there = [gradient for gradient in gradients if gradient is not None]
        if self._total is None or not there:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in there])
        self._total(flat)
        parts = flat.split([gradient.numel() for gradient in there])
        torch._foreach_copy_(
            there, [part.view(gradient.shape) for part, gradient in zip(parts, there, strict=True)]
        )

    @contextmanager
    def _statistics_frozen(self) -> Iterator[None]:
        """Perturbed forwards see batch statistics but leave the running ones alone."""
        tracked = [m for m in self._norms if self._clean and m.training and m.track_running_stats]
        for module in tracked:
            module.track_running_stats = False
        try:
            yield
        finally:
            for module in tracked:
                module.track_running_stats = True


def _gradients(
    losses: list[Tensor], parameters: list[Tensor], *, retain: bool = False
) -> list[Tensor | None]:
    """The gradient of the sum of the losses in one backward pass."""
    return list(torch.autograd.grad(losses, parameters, retain_graph=retain, allow_unused=True))


def _ascend(parameters: list[Tensor], gradients: list[Tensor | None], rho: float) -> None:
    """Move w by ρ·g/‖g‖ in place; not at all where g = 0, without asking the device."""
    moved = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
    if not moved:
        return
    points, slopes = (list(column) for column in zip(*moved, strict=True))
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(slopes)))
    scale = torch.where(norm > 0, rho / norm, torch.zeros_like(norm))
    torch._foreach_add_(points, torch._foreach_mul(slopes, scale))


def _add(left: list[Tensor | None], right: list[Tensor | None]) -> list[Tensor | None]:
    return [a if b is None else b if a is None else a + b for a, b in zip(left, right, strict=True)]
