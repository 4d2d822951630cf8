"""The flat parameter vector w: which tensors it is made of, and how to get in and out of it."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from saddlescope.errors import UsageError, nearest

Test = Callable[[str, nn.Parameter], bool]
Part = str | re.Pattern[str] | Tensor | nn.Module
Choice = Iterable[Part] | Part | Test
"""Which parameters make up w: names of theirs or of modules, shell-style patterns of these, regular
expressions, parameters or modules themselves, or a test of name and parameter."""


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


def as_patterns(model: nn.Module, choice: Choice | None) -> tuple[str, ...] | None:
    """Return names and patterns as they are, anything else as names of parameters.

    Raises:
        UsageError: a part that no trainable parameter belongs to, with the nearest name; a tensor
            or module that is not of this model; something else.
    """
    if choice is None:
        return None
    parts: Iterable[Any] = (choice,)
    if isinstance(choice, Iterable) and not isinstance(choice, str | Tensor | nn.Module):
        parts = choice
    found: list[str] = []
    for part in parts:
        names = _names(model, part)
        # Frozen ones are left out of `model.parameters()`, but a frozen layer was not asked for.
        live = isinstance(part, Tensor) or any(p.requires_grad for p in names.values())
        if not (names and live):
            raise UsageError(_nothing(model, part, frozen=bool(names)))
        if isinstance(part, str):
            found.append(part)
            # A tied parameter has one name in w, and is meant by its other one too.
            names = {name: p for name, p in names.items() if not _matches(name, part)}
        # Brackets keep a name from being read as a pattern.
        found += [re.sub(r"([*?[])", r"[\1]", name) for name in names]
    return tuple(dict.fromkeys(found))


def _names(model: nn.Module, part: Any) -> dict[str, nn.Parameter]:
    """The parameters that a part of a choice means."""
    every = dict(model.named_parameters())
    if isinstance(part, Tensor | nn.Module):
        own = [part] if isinstance(part, Tensor) else list(part.parameters())
        identities = {id(tensor) for tensor in own}
        found = {name: p for name, p in every.items() if id(p) in identities}
        if len(found) < len(identities):
            what = (
                f"tensor of shape {tuple(part.shape)} that is no parameter"
                if isinstance(part, Tensor)
                else f"{type(part).__name__} that is no module"
            )
            raise UsageError(
                f"parameters holds a {what} of {type(model).__name__}: give its parameters or "
                "modules, or patterns of their names"
            )
        return found
    meant = _test(part)
    # A tied parameter is meant by each of its names, and has the first of them.
    named = model.named_parameters(remove_duplicate=False)
    chosen = {id(parameter) for name, parameter in named if meant(name, parameter)}
    return {name: parameter for name, parameter in every.items() if id(parameter) in chosen}


def _test(part: Any) -> Callable[[str, nn.Parameter], bool]:
    """A part of a choice that is no tensor or module, as a test."""
    if isinstance(part, str):
        return lambda name, _: _matches(name, part)
    if isinstance(part, re.Pattern):
        return lambda name, _: part.search(name) is not None
    if callable(part):
        return part
    raise UsageError(
        f"parameters holds a {type(part).__name__}: expected names or patterns such as 'layer3.*', "
        "regular expressions, parameters or modules of the model, or a test of name and parameter"
    )


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern is of this parameter or of a module that it belongs to."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _nothing(model: nn.Module, part: Any, *, frozen: bool) -> str:
    """Say that a part of a choice means nothing, and what may have been meant."""
    asked = part.pattern if isinstance(part, re.Pattern) else part
    said = f" matching {asked!r}" if isinstance(asked, str) else " that was chosen"
    text = f"{type(model).__name__} has no trainable parameter{said}"
    if frozen:
        return f"{text}: what it means is frozen (requires_grad=False)"
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    modules = [name for name, module in model.named_modules() if name and list(module.parameters())]
    near = nearest(asked, [*modules, *names], cutoff=0.6) if isinstance(asked, str) else None
    if near is not None:
        return f"{text}: did you mean {near!r}?"
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"{text}: there are {some or 'none'}"


def select_parameters(model: nn.Module, patterns: Choice | None = None) -> ParameterVector:
    """Collect the trainable parameters of `model`, all or those that are chosen.

    Args:
        model: any module.
        patterns: which, see `Choice`: "layer3", "layer3.*.weight", a module, `re.compile("norm")`,
            `lambda name, p: p.ndim > 1`; None takes every parameter.

    Raises:
        UsageError: none is left, part of the choice means none, they live on several dtypes or
            devices, or they or the forward pass are divided among ranks.
    """
    for name, module in model.named_modules():
        _refuse_divided(name, module)
    wanted = as_patterns(model, patterns)
    named = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (wanted is None or any(_matches(name, pattern) for pattern in wanted))
    ]
    if not named:
        what = "trainable parameter" + ("" if wanted is None else " that was chosen")
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
        if "DTensor" in {kind.__name__ for kind in type(parameter.data).__mro__}:
            raise UsageError(
                f"parameter {name} is divided among ranks (FSDP, DTensor): measure a whole copy of "
                "the model, with the full state dict"
            )
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


def _refuse_divided(name: str, module: nn.Module) -> None:
    """Refuse a module whose forward pass waits for other ranks; by name, to import nothing."""
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if "FullyShardedDataParallel" in kinds:
        raise UsageError(
            f"{name or 'the model'} is divided among ranks (FullyShardedDataParallel): measure a "
            "whole copy of the model, with the full state dict"
        )
    if "DistributedDataParallel" in kinds and next(module.buffers(), None) is not None:
        raise UsageError(
            f"{name or 'the model'} is DistributedDataParallel, whose forward pass waits for all "
            f"ranks: measure the model with {name}.module in its place"
        )


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
