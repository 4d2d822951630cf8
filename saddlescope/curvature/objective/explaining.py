"""Say what went wrong in somebody's model, criterion or data, in one line that says what to do.

torch's own errors name an operator of C++ or nothing ("mat1 and mat2 must have the same dtype").
Nothing here runs until something has failed: then the first batch is taken through the model and
the criterion once more, to see which of them cannot go on, and on what.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # as torch's own flop counter does
from torch.utils._pytree import tree_leaves  # as torch.func does

from saddlescope.curvature.memory import OVERWRITTEN, is_out_of_memory
from saddlescope.curvature.objective.batches import BatchLoss, map_tensors
from saddlescope.curvature.objective.counting import pair
from saddlescope.curvature.objective.forward import call_model
from saddlescope.curvature.objective.state import exact_arithmetic, untouched
from saddlescope.errors import DataError, OperatorError, SaddlescopeError, UsageError

_NO_DERIVATIVE = re.compile(
    r"derivative for '?(?:aten::)?(\w+)'? is not implemented"
    r"|forward AD with '?(?:aten::)?(\w+)'? that does not support it"
)
_ONCE = "once_differentiable"

_NO_GRAPH = {
    OVERWRITTEN: (
        "the model or the loss writes over a tensor that its derivative needs: write that "
        "operation out of place (x = x.tanh() for x.tanh_(), inplace=False)"
    ),
    "backward through the graph a second time": (
        "a tensor that the model or the loss uses was computed before the forward pass: compute it "
        "there, and measure outside of parametrize.cached()"
    ),
}
"""What to do where torch cannot take the gradient, by torch's words."""

_INSTEAD = {
    "hardsigmoid": "relu6(x + 3) / 6",
    "embedding_bag": "embedding(ids, weight) and its mean or sum over the bag",
    "cdist": "(a[:, None] - b[None]).square().sum(2).sqrt()",
}
"""The same function from operations that can be differentiated twice."""


def explain(error: Exception, model: nn.Module, criterion: Any, batches: Iterable[Any]) -> None:
    """Raise an error that names the cause, if it lies in the model, the criterion or the data.

    Args:
        error: what was raised; one raised on purpose, or because memory ran out, is left alone.
        model: the user's.
        criterion: the user's; a `BatchLoss` too.
        batches: the user's; the first is read.

    Raises:
        OperatorError: an operation without a second derivative, with the name of the layer, or a
            graph that cannot be differentiated.
        UsageError: the model cannot be called on a batch, or the criterion on what it returns.
        DataError: class numbers that the model has no output for, or inputs of another dtype.
    """
    if isinstance(error, SaddlescopeError) or is_out_of_memory(error):
        return
    for words, advice in _NO_GRAPH.items():
        if words in str(error):
            raise OperatorError(f"{advice} (torch: {torchs_words(error)})") from error
    try:
        batch = map_tensors(next(iter(batches)), lambda tensor: tensor.to(_device(model)))
    except Exception:  # the source is the user's, and may be spent
        batch = None
    if (operation := _without_derivative(error)) is not None:
        raise OperatorError(_no_second_derivative(operation, model, criterion, batch)) from error
    if batch is None:
        return
    with untouched(model), exact_arithmetic():
        if isinstance(criterion, BatchLoss):
            try:
                criterion(model, batch)
            except SaddlescopeError as refused:
                raise refused from error
            except Exception as again:
                raise UsageError(
                    f"the function of the BatchLoss failed on a batch ({described(batch)}): "
                    f"{first_line(again)}"
                ) from error
            return
        inputs, targets = pair(batch)
        check_call(model, criterion, inputs, targets, origin=error)


def check_call(
    model: nn.Module, criterion: Any, inputs: Any, targets: Any, *, origin: Exception | None = None
) -> Any:
    """Take a batch through the model and the criterion, and refuse what cannot go through.

    Args:
        model: called on the inputs.
        criterion: called on what the model returns, and the targets.
        inputs: a tensor, a tuple of arguments, or a mapping of keywords.
        targets: of the same samples.
        origin: the error to name as the cause.

    Returns:
        What the model returns.

    Raises:
        UsageError, DataError: see `explain`.
    """
    try:
        with torch.no_grad():
            outputs = call_model(model, inputs)
    except Exception as error:
        _refuse_dtype(model, inputs, origin or error)
        raise UsageError(
            f"{type(model).__name__} cannot be called on a batch of the data "
            f"({described(inputs)}): {first_line(error)}"
        ) from (origin or error)
    name = getattr(criterion, "__name__", type(criterion).__name__)
    try:
        with torch.no_grad():
            loss = criterion(outputs, targets)
    except Exception as error:
        _refuse_classes(outputs, targets, origin or error)
        advice = ""
        if not isinstance(outputs, Tensor):
            advice = "; give a criterion that takes its part of the outputs, such as " + _pick(
                outputs
            )
        elif targets is None:
            advice = "; a loss without targets goes with BatchLoss(function)"
        raise UsageError(
            f"the criterion {name} failed on what {type(model).__name__} returns "
            f"({described(outputs)}) and on targets ({described(targets)}): "
            f"{first_line(error)}{advice}"
        ) from (origin or error)
    if not isinstance(loss, Tensor):
        raise UsageError(
            f"the criterion {name} returned {described(loss)}: expected a tensor, the mean loss "
            "or one loss a sample; return only that"
        ) from origin
    return outputs


def described(value: Any) -> str:
    """Say what a batch or an output is, with shapes: "dict of logits: float32 (8, 3), …"."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        items = ", ".join(f"{key}: {described(item)}" for key, item in list(value.items())[:4])
        return f"{type(value).__name__} of {items}" if items else f"empty {type(value).__name__}"
    if isinstance(value, tuple | list):
        items = ", ".join(described(item) for item in value[:4])
        return f"{type(value).__name__} of {len(value)}" + (f": {items}" if items else "")
    return type(value).__name__


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def torchs_words(error: BaseException) -> str:
    """Return the first line of an error of torch's, without its hints."""
    return re.split(r"[.;]? (?:Hint|Saved intermediate values|Specify)\b", first_line(error))[0]


def _without_derivative(error: Exception) -> str | None:
    """The operation that an error says cannot be differentiated, stripped of its affixes."""
    text = str(error)
    if _ONCE in text:
        return _ONCE
    found = _NO_DERIVATIVE.search(text)
    return None if found is None else _stem(found[1] or found[2])


def _stem(name: str) -> str:
    """`_cdist_backward`, `_cdist_forward` and `cdist` are one operation."""
    return re.sub(r"(_(backward|forward|double))+$", "", name.strip("_"))


def _no_second_derivative(
    operation: str, model: nn.Module, criterion: Any, batch: Any | None
) -> str:
    if operation == _ONCE:
        return (
            "an autograd.Function of the model or the loss is marked once_differentiable, so there "
            "is no Hessian; write its backward from differentiable operations, without the mark"
        )
    where = None if batch is None else _layer(operation, model, criterion, batch)
    around = ", or leave out the parameters before it (parameters=...)"
    if where is None or where.startswith("the loss"):
        around = ""
    advice = "write it from operations that can be differentiated twice"
    if operation in _INSTEAD:
        advice = f"write it as {_INSTEAD[operation]}"
    return (
        f"{where or 'the model or the loss'} has no second derivative in torch ({operation} can "
        f"be differentiated once only), so there is no Hessian: {advice}{around}"
    )


class _Watch(TorchDispatchMode):
    """Notes in which module an operation is first called."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation = operation
        self.inside: list[str] = []
        self.found: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.partition("::")[2]
        if self.found is None and _stem(name) == self.operation:
            self.found = self.inside[-1] if self.inside else ""
        return func(*args, **(kwargs or {}))


def _layer(operation: str, model: nn.Module, criterion: Any, batch: Any) -> str | None:
    """The innermost module that calls an operation, in words; None where none does."""
    watch, handles = _Watch(operation), []

    def enter(name: str) -> Any:
        return lambda *_: watch.inside.append(name)

    def leave(*_: Any) -> None:
        watch.inside.pop()

    try:
        for name, module in model.named_modules():
            label = f"{name or 'the model'} ({type(module).__name__})"
            handles.append(module.register_forward_pre_hook(enter(label)))
            handles.append(module.register_forward_hook(leave, always_call=True))
        with untouched(model), exact_arithmetic(), watch:
            if isinstance(criterion, BatchLoss):
                criterion(model, batch)
            else:
                inputs, targets = pair(batch)
                criterion(call_model(model, inputs), targets)
    except Exception:  # what is being explained is another error
        return None
    finally:
        for handle in handles:
            handle.remove()
    if watch.found == "":
        return f"the loss ({getattr(criterion, '__name__', type(criterion).__name__)})"
    return watch.found


def _refuse_dtype(model: nn.Module, inputs: Any, origin: Exception) -> None:
    wanted = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    found = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if wanted is not None and found and found != {wanted}:
        seen = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise DataError(
            f"inputs are {seen} and the parameters of {type(model).__name__} "
            f"{str(wanted).removeprefix('torch.')}: convert the inputs or the model with .to()"
        ) from origin


def _refuse_classes(outputs: Any, targets: Any, origin: Exception) -> None:
    """Class numbers beyond the model's outputs, as torch's losses by class number have them."""
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.dim() > 1):
        return
    if targets.is_floating_point() or targets.numel() == 0 or targets.dim() >= outputs.dim():
        return
    classes, low, high = outputs.shape[1], int(targets.min()), int(targets.max())
    if high >= classes or low < 0:
        wrong = high if high >= classes else low
        raise DataError(
            f"class number {wrong} in the targets, but the model has {classes} outputs, for "
            f"classes 0 to {classes - 1}: count classes from 0, or give the model more outputs"
        ) from origin


def _pick(outputs: Any) -> str:
    """How to take a tensor out of what a model returns."""
    key = "[0]"
    if isinstance(outputs, Mapping) and outputs:
        key = "['logits']" if "logits" in outputs else f"[{next(iter(outputs))!r}]"
    elif dataclasses.is_dataclass(outputs) or getattr(outputs, "logits", None) is not None:
        key = ".logits"
    return f"lambda outputs, targets: criterion(outputs{key}, targets)"


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
