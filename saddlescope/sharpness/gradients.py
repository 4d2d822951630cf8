"""Gradients as lists beside the parameters, and `.grad`, through which everybody else sees them.

Every pass is a `backward()` into `.grad`: DistributedDataParallel, FSDP, activation checkpointing
and hooks listen to that, and to nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from saddlescope.errors import UsageError
from saddlescope.sharpness.norms import is_sharded, local, values

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


def others(
    losses: Iterable[Tensor], parameters: Sequence[Tensor], model: nn.Module | None
) -> list[Tensor]:
    """Leaves of the graphs of these losses that are none of these parameters.

    Those inside a reentrant checkpoint are not part of a graph before its backward pass. Under
    `fully_shard` leaves are whole copies of the shards, whose `.grad` is not ours to touch: there
    others are the model's.

    Raises:
        UsageError: under `fully_shard`, without a model, parameters of somebody else.
    """
    own = {id(parameter) for parameter in parameters}
    shards = [parameter for parameter in parameters if is_sharded(parameter)]
    if shards and model is not None:
        return [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    leaves = (getattr(node, "variable", None) for node in _nodes(losses))
    found = [leaf for leaf in leaves if leaf is not None and id(leaf) not in own]
    if not shards:
        return found
    whole = Counter(tuple(leaf.shape) for leaf in found if not is_sharded(leaf))
    if whole - Counter(tuple(shard.shape) for shard in shards):
        raise UsageError(
            "the loss depends on parameters of another optimiser: under fully_shard hand the "
            "network over as StepOptions(model=...), so that they can be told apart"
        )
    return [leaf for leaf in found if is_sharded(leaf)]


def is_spent_by_backward(losses: Iterable[Tensor]) -> bool:
    """Tell whether a second backward pass over these graphs may find what they saved changed.

    It may in what `torch.compile` has made, and in autograd Functions that are not torch's own.
    """
    functions = ((node, getattr(type(node), "_forward_cls", None)) for node in _nodes(losses))
    return any(
        node.name() == "CompiledFunctionBackward" or not forward.__module__.startswith("torch.")
        for node, forward in functions
        if forward is not None
    )


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
