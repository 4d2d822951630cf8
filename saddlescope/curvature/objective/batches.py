"""Batches of any kind: a pair (inputs, targets), or anything that a loss of your own can read.

A criterion sees outputs and targets. Many losses are not of that form: a language model returns
its own, an autoencoder has no targets, a physics-informed network differentiates its outputs with
respect to its inputs. `BatchLoss` hands such a function the model and the whole batch.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.errors import UsageError


@dataclass(frozen=True)
class BatchLoss:
    """Take a criterion's place by a loss that is a function of the model and a batch of any kind.

    Attributes:
        function: `function(model, batch) -> mean loss over the batch`, one number with its graph.
            It must use the model it is given: that may be a copy in float64.
        weight: `weight(batch)`, what that mean was divided by, so that batches can be put
            together exactly; by default the length of the first tensor found in the batch. Where
            padding or ignored tokens are not counted, it is the number that are.

    Example:
        >>> loss = BatchLoss(
        ...     lambda model, batch: model(**batch).loss,
        ...     weight=lambda batch: (batch["labels"] != -100).sum(),
        ... )
    """

    function: Callable[[nn.Module, Any], Tensor]
    weight: Callable[[Any], float | Tensor] | None = None

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss over a batch, a scalar with a graph.

        Raises:
            UsageError: the function returned something else.
        """
        # Also where only the value is wanted: the function may differentiate in the inputs.
        with torch.enable_grad():
            loss = self.function(model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise UsageError(
                f"the function of a BatchLoss returned {what}: expected the mean loss over the "
                "batch, one number"
            )
        return loss.reshape(())

    def weigh(self, batch: Any) -> float:
        """Return what the mean over this batch was divided by.

        Raises:
            UsageError: `weight` gave no such number, or is needed and missing.
        """
        if self.weight is None:
            return float(_length_or_refuse(batch))
        weight = float(self.weight(batch))
        if not (math.isfinite(weight) and weight >= 0.0):
            raise UsageError(f"the weight of a batch is {weight}: expected a number >= 0")
        return weight

    def double(self) -> "BatchLoss":
        """Return the same loss for a model and batches in float64."""
        if not isinstance(self.function, nn.Module):
            return self
        return dataclasses.replace(self, function=copy.deepcopy(self.function).double())


@dataclass(frozen=True)
class InDouble:
    """Yield batches with their floating-point tensors in float64."""

    source: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        for batch in self.source:
            yield map_tensors(batch, lambda t: t.double() if t.is_floating_point() else t)


def map_tensors(
    value: Any, change: Callable[[Tensor], Tensor], *, words: Callable[[Any], Any] | None = None
) -> Any:
    """Change every tensor in a structure; what is no container stays as it is.

    Containers are tuples, lists, mappings (also those of Hugging Face) and dataclasses.

    Args:
        value: the structure.
        change: of a tensor.
        words: of a list or tuple of texts, see `is_words`.
    """
    if isinstance(value, Tensor):
        return change(value)

    def inside(item: Any) -> Any:
        return map_tensors(item, change, words=words)

    if type(value) is dict:
        return {key: inside(item) for key, item in value.items()}
    if isinstance(value, MutableMapping):
        changed = copy.copy(value)
        for key in list(value):
            changed[key] = inside(value[key])
        return changed
    if is_named_tuple(value):
        return type(value)(*map(inside, value))
    if words is not None and is_words(value):
        return words(value)
    if isinstance(value, tuple | list):
        return type(value)(map(inside, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return dataclasses.replace(value, **{name: inside(getattr(value, name)) for name in fields})
    return value


def is_words(value: Any) -> bool:
    """Return whether a value is a list or tuple of texts: a name for each sample."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(item, str) for item in value)
    )


def is_named_tuple(value: Any) -> bool:
    """Return whether a value is a tuple whose items have names: one structure, not several."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def detached(batch: Any, device: torch.device) -> Any:
    """Put a batch on the device, its tensors leaves of their own, so that the user's stay clean.

    A tensor that asks for gradients (the points of a physics-informed loss) still does.
    """
    return map_tensors(
        batch,
        lambda t: normal(t).detach().to(device, non_blocking=True).requires_grad_(t.requires_grad),
    )


def normal(tensor: Tensor) -> Tensor:
    """Return the tensor; of one made in inference mode, a copy that autograd can save."""
    return tensor.clone() if tensor.is_inference() else tensor


def batch_length(batch: Any) -> int | None:
    """Return the length of the first tensor found in a batch, None if there is none."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() > 0 else None
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        items: Iterable[Any] = [getattr(batch, field.name) for field in dataclasses.fields(batch)]
    elif isinstance(batch, Mapping):
        items = batch.values()
    elif isinstance(batch, tuple | list):
        items = batch
    else:
        return None
    return next((n for item in items if (n := batch_length(item)) is not None), None)


def _length_or_refuse(batch: Any) -> int:
    length = batch_length(batch)
    if length is None:
        raise UsageError(
            f"no tensor found in a batch of type {type(batch).__name__}, so its number of samples "
            "is not known: pass BatchLoss(function, weight=...)"
        )
    return length
