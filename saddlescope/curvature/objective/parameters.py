"""The flat parameter vector w: which tensors it is made of, and how to get in and out of it."""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from saddlescope.errors import UsageError

Choice = Iterable[str | Tensor] | str | Tensor
"""Which parameters make up w: shell-style patterns of their names, or parameters themselves."""


@dataclass(frozen=True)
class ParameterVector:
    """Hold the parameters that w is made of, in the order of `model.named_parameters()`.

    Tied parameters count once; frozen ones (`requires_grad=False`) are left out.

    Attributes:
        names: one name a tensor.
        tensors: the parameters themselves, not copies.
    """

    names: tuple[str, ...]
    tensors: tuple[nn.Parameter, ...]

    @property
    def size(self) -> int:
        """Return the length n of w."""
        return sum(tensor.numel() for tensor in self.tensors)

    @property
    def dtype(self) -> torch.dtype:
        """Return the one dtype of all tensors."""
        return self.tensors[0].dtype

    @property
    def device(self) -> torch.device:
        """Return the one device of all tensors."""
        return self.tensors[0].device

    def split(self, vector: Tensor) -> list[Tensor]:
        """View a flat vector of shape (n,) as tensors of the parameters' shapes."""
        if vector.shape != (self.size,):
            raise UsageError(
                f"vector of shape {tuple(vector.shape)} handed to an operator of size {self.size}; "
                f"expected ({self.size},)"
            )
        parts = torch.split(vector, [tensor.numel() for tensor in self.tensors])
        return [part.view_as(like) for part, like in zip(parts, self.tensors, strict=True)]

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Join tensors of the parameters' shapes; None (no dependence) becomes zeros."""
        return torch.cat(
            [
                (torch.zeros_like(like) if tensor is None else strided(tensor)).reshape(-1)
                for tensor, like in zip(tensors, self.tensors, strict=True)
            ]
        )


def as_patterns(model: nn.Module, patterns: Choice | None) -> tuple[str, ...] | None:
    """Return patterns as they are, tensors as names of the parameters that they are; None stays so.

    Raises:
        UsageError: a tensor that is no parameter of the model, or neither of the two.
    """
    if patterns is None:
        return None
    given = (patterns,) if isinstance(patterns, str | Tensor) else tuple(patterns)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = []
    for item in given:
        if isinstance(item, Tensor):
            if id(item) not in names:
                raise UsageError(
                    f"parameters holds a tensor of shape {tuple(item.shape)} that is no parameter "
                    f"of {type(model).__name__}: give its parameters, or patterns of their names"
                )
            # Brackets keep a name from being read as a pattern.
            found.append(re.sub(r"([*?[])", r"[\1]", names[id(item)]))
        elif isinstance(item, str):
            found.append(item)
        else:
            raise UsageError(
                f"parameters holds a {type(item).__name__}: expected patterns of names such as "
                "'layer3.*', or parameters of the model"
            )
    return tuple(found)


def select_parameters(model: nn.Module, patterns: Choice | None = None) -> ParameterVector:
    """Collect the trainable parameters of `model`, all or those whose name matches a pattern.

    Args:
        model: any module.
        patterns: shell-style name patterns ("layer3.*"), or parameters themselves; None takes
            every parameter.

    Raises:
        UsageError: none is left, or they live on several dtypes or devices.
    """
    wanted = as_patterns(model, patterns)
    named = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (wanted is None or any(fnmatchcase(name, pattern) for pattern in wanted))
    ]
    if not named:
        what = "trainable parameter" if wanted is None else f"trainable parameter matching {wanted}"
        raise UsageError(f"{type(model).__name__} has no {what}: nothing to take a Hessian of")
    for name, parameter in named:
        if parameter.is_inference():
            raise UsageError(
                f"parameter {name} was made under torch.inference_mode() and can have no gradient: "
                "build the model outside of it, or measure copy.deepcopy(model)"
            )
    for kind in ("dtype", "device"):
        seen = sorted({str(getattr(parameter, kind)) for _, parameter in named})
        if len(seen) > 1:
            raise UsageError(
                f"parameters of {type(model).__name__} have several {kind}s ({', '.join(seen)}); "
                f"a Hessian needs one: convert the model with .to() first"
            )
    for name, parameter in named:
        if parameter.dtype.is_complex:
            raise UsageError(
                f"parameter {name} is complex ({parameter.dtype}), and a Hessian is that of a "
                "function of real numbers: keep its real and imaginary part as a real parameter "
                "(torch.view_as_real) and join them in the forward pass (torch.view_as_complex), "
                "or leave it out with parameters=..."
            )
    if not named[0][1].dtype.is_floating_point or named[0][1].dtype.itemsize < 4:
        raise UsageError(
            f"parameters are {named[0][1].dtype}: curvature needs float32 or float64 (in half "
            "precision a product is off by per cents, and rounded weights are another network's); "
            "convert the model with .float()"
        )
    names, tensors = zip(*named, strict=True)
    return ParameterVector(names, tensors)


def strided(tensor: Tensor) -> Tensor:
    """Return a gradient with its graph as a dense tensor (a sparse embedding's is none)."""
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def in_double(model: nn.Module) -> nn.Module:
    """Copy the model in float64, tensors that it keeps as plain attributes included.

    Raises:
        Exception: whatever the model's deepcopy raises where it cannot be copied.
    """
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        for name, value in list(vars(module).items()):
            if type(value) is Tensor and value.is_floating_point():
                setattr(module, name, value.double())
    return exact


def call_with(model: nn.Module, values: Mapping[str, Tensor], arguments: tuple[Any, ...]) -> Any:
    """Call the model with other tensors in place of its parameters and buffers.

    Args:
        model: left as it was.
        values: by the names of `named_parameters()` and `named_buffers()`, tied ones once.
        arguments: of the call.
    """
    first = {id(p): name for name, p in [*model.named_parameters(), *model.named_buffers()]}
    slots = {}
    # One name a place. Left to find ties itself, torch (2.13) fills a module that hangs under two
    # names twice, and then restores what it had filled in first: the model keeps the substitutes.
    for prefix, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None and first[id(tensor)] in values:
                slots[f"{prefix}.{name}" if prefix else name] = values[first[id(tensor)]]
    return functional_call(model, slots, arguments, tie_weights=False)
