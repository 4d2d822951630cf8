"""Read what a caller's function returns from one forward pass, or refuse it with one clear line."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from saddlescope.errors import UsageError

Losses: TypeAlias = Callable[[], Any]
"""One forward pass: returns losses by group, one loss, or runs `backward()` itself."""


def as_calls(closure: Losses | Iterable[Losses]) -> list[Losses]:
    """One function for each micro-batch.

    Raises:
        UsageError: neither a function nor several of them.
    """
    if callable(closure):
        return [closure]
    calls = (
        list(closure)
        if isinstance(closure, Iterable) and not isinstance(closure, Mapping | Tensor)
        else []
    )
    if not calls or not all(map(callable, calls)):
        raise UsageError(
            "step takes a function that computes the losses, since it is called again at w + ε, or "
            f"a list of such functions, one for each micro-batch; got {type(closure).__name__}"
        )
    return calls


def only(radii: Mapping[Hashable, float]) -> Hashable:
    """Return the group that a plain loss belongs to.

    Raises:
        UsageError: there are several.
    """
    if len(radii) != 1:
        raise UsageError(
            f"one loss for the groups {', '.join(map(str, radii))}: return a dictionary of losses"
        )
    return next(iter(radii))


def by_group(result: Any, radii: Mapping[Hashable, float]) -> Mapping[Hashable, Tensor]:
    """Losses by group; a plain loss is the only group's.

    Raises:
        UsageError: no loss, no group, or a group without a radius.
    """
    if isinstance(result, Tensor):
        return {only(radii): result}
    if not isinstance(result, Mapping):
        raise UsageError(
            f"the function returned {type(result).__name__}: expected a loss or losses by group, "
            "or that it calls backward() itself"
        )
    if not result:
        raise UsageError("losses() returned no group: there is nothing to descend")
    if unknown := [name for name in result if name not in radii]:
        raise UsageError(
            f"losses() returned group {unknown[0]!r}, which has no radius ({dict(radii)})"
        )
    return result


def loss_of(losses: Mapping[Hashable, Tensor], name: Hashable) -> Tensor:
    """Return the loss of a group, if it can be differentiated.

    Raises:
        UsageError: missing, no scalar, or without a graph.
    """
    try:
        loss = losses[name]
    except KeyError:
        raise UsageError(
            f"losses() returned no group {name!r} at w + ε, but did at w: both passes must see the "
            "same samples"
        ) from None
    if not isinstance(loss, Tensor):
        raise UsageError(f"the loss of group {name!r} is {type(loss).__name__}, not a tensor")
    if loss.numel() != 1:
        raise UsageError(
            f"the loss of group {name!r} has shape {tuple(loss.shape)}: reduce it to one number"
        )
    if not loss.requires_grad:
        raise UsageError(
            f"the loss of group {name!r} depends on no parameter: it was detached, computed under "
            "no_grad, or everything is frozen"
        )
    return loss


def backward(losses: Sequence[Tensor], *, scaler: Any = None, retain: bool = False) -> None:
    """Add the gradient of the sum of the losses to `.grad`, in one pass."""
    scaled = list(losses)
    if scaler is not None:
        with torch.enable_grad():
            scaled = [scaler.scale(loss) for loss in losses]
    torch.autograd.backward(scaled, retain_graph=retain)
