"""Gradients as lists beside the parameters, and `.grad`, through which everybody else sees them.

Every pass is a `backward()` into `.grad`: DistributedDataParallel, FSDP, activation checkpointing
and hooks listen to that, and to nothing else.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from saddlescope.sharpness.norms import local, values

Gradients: TypeAlias = list[Tensor | None]

_MARK = "_saddlescope_seen"


def clear(parameters: Iterable[Tensor]) -> None:
    """Leave no `.grad`."""
    for parameter in parameters:
        parameter.grad = None


def take(parameters: Sequence[Tensor]) -> Gradients:
    """Return the gradients that are there, whose places are empty afterwards."""
    found = [parameter.grad for parameter in parameters]
    clear(parameters)
    return found


def put(parameters: Sequence[Tensor], gradients: Gradients) -> None:
    """Set `.grad`."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def add(left: Gradients | None, right: Gradients) -> Gradients:
    """Return the sum, where None is 0."""
    if left is None:
        return right
    return [a if b is None else b if a is None else a + b for a, b in zip(left, right, strict=True)]


def mark_seen(parameters: Iterable[Tensor]) -> None:
    """Remember what `.grad` holds now: it has been used, or is older than the optimiser."""
    for parameter in parameters:
        if parameter.grad is not None:
            setattr(parameter.grad, _MARK, parameter.grad._version)


def unseen(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Gradients that somebody has put or added into `.grad` since `mark_seen`."""
    return [
        gradient
        for gradient in (parameter.grad for parameter in parameters)
        if gradient is not None and getattr(gradient, _MARK, None) != gradient._version
    ]


def any_nonzero(gradients: Iterable[Tensor]) -> bool:
    """Tell whether one of them is not zero; asks the device."""
    return any(bool((values(local(gradient)) != 0).any()) for gradient in gradients)


def others(losses: Iterable[Tensor], parameters: Iterable[Tensor]) -> list[Tensor]:
    """Leaves of the graphs of these losses that are none of these parameters.

    Those inside a reentrant checkpoint are not part of a graph before its backward pass.
    """
    own = {id(parameter) for parameter in parameters}
    leaves = (getattr(node, "variable", None) for node in _nodes(losses))
    return [leaf for leaf in leaves if leaf is not None and id(leaf) not in own]


def is_compiled(losses: Iterable[Tensor]) -> bool:
    """Tell whether the graphs of these losses run through what `torch.compile` has made."""
    return any(node.name() == "CompiledFunctionBackward" for node in _nodes(losses))


def _nodes(losses: Iterable[Tensor]) -> Iterator[Any]:
    """Every node of the graphs of these losses, once."""
    nodes = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)


class Untouched:
    """Keeps the `.grad` of other optimisers' parameters from an ascent.

    Args:
        tensors: whose `.grad` is to be as it is now.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._copies = [None if t.grad is None else t.grad.clone() for t in tensors]

    def put_back(self) -> None:
        """Restore them."""
        put(self._tensors, self._copies)
