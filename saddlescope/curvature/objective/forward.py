"""The model's forward pass as the instrument runs it: the same function, cheaper to differentiate.

Eval-mode BatchNorm after a convolution (or linear) layer is an affine map of its output, so it
folds into the layer *as a function of the parameters*:

    W' = W·γ/√(σ² + ε),   b' = (b − μ)·γ/√(σ² + ε) + β.

That is exact and differentiable in W, b, γ and β; the Hessian in the original parameters is
unchanged, and every product saves the normalisation's own sweeps.

Images go channels-last, in which convolutions are faster, unless they are so few that their layers'
outputs are fewer numbers than the weights: those would have to be laid out anew for each
convolution.

Which layers may be folded is not read off the modules but seen: one pass records every torch
call, and a layer qualifies if its output goes to exactly one BatchNorm and to nothing else (nor
out of the model). A loss that calls the model itself is watched, and folded, from end to end.
"""

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves  # as torch.func does

from saddlescope.curvature.memory import is_out_of_memory

log = logging.getLogger("saddlescope.curvature")

_LAYERS = (torch.conv1d, torch.conv2d, torch.conv3d, F.linear)
_BATCH_NORM = inspect.signature(F.batch_norm)


class Folding:
    """Learn from one pass which layer calls of a model are folded.

    Args:
        model: in the mode it will be evaluated in.
        inputs: any valid inputs; of a tensor, only the first sample is used.
        loss: `loss(model, batch)`, run in place of a plain call of the model; `inputs` is then
            the batch, and is used as it is.

    Attributes:
        folded: which layer calls, by number.
        channels_last: whether images may be laid out so.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        *,
        loss: Callable[[Any, Any], Tensor] | None = None,
    ) -> None:
        self._call: Callable[[Any, Any], Any] = call_model if loss is None else loss
        plain = isinstance(inputs, Tensor) and loss is None
        watch = _Watch()
        # One sample shows it all, but there are models of one batch size.
        for first in (inputs[:1], inputs) if plain and len(inputs) > 1 else (inputs,):
            try:
                # With gradients: a model may differentiate inside.
                with torch.enable_grad(), watch:
                    watch.leave(self._call(model, first))
                break
            except Exception as error:  # anybody's forward pass; the pass itself will tell
                if is_out_of_memory(error):
                    raise
                failed, watch = error, _Watch()
        else:
            log.info("products: nothing is folded, because a pass failed (%s)", failed)
        self.folded = frozenset(watch.foldable())
        self.channels_last = (
            loss is None and bool(watch.convolved) and _runs_channels_last(model, first)
        )
        self._many = watch.weights / watch.convolved if self.channels_last else math.inf
        self._layers: _Layers | None = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Fold each layer once for all passes meanwhile: they go into one graph."""
        self._layers = {}
        try:
            yield
        finally:
            self._layers = None

    def prepare(self, inputs: Any) -> Any:
        """Lay a batch out for the convolutions that will read it, where they gain by it."""
        return self.lay_out(inputs) if self.channels_last and len(inputs) >= self._many else inputs

    def lay_out(self, inputs: Any) -> Any:
        """Lay a batch out as a large one is (float64 convolutions know one layout only)."""
        images = isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.dtype == torch.float32
        if self.channels_last and images:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def run(self, model: Callable[..., Any], inputs: Any) -> Any:
        """Return the model's outputs, or the loss that calls it."""
        if not self.folded:
            return self._call(model, inputs)
        try:
            with _Fold(self.folded, {} if self._layers is None else self._layers):
                return self._call(model, inputs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
        # The model took another path than when it was watched, or folding broke it: without it,
        # for good. What is wrong with the model itself is raised again.
        values = self._call(model, inputs)
        log.info("products: no layer is folded from here on")
        self.folded = frozenset()
        return values


def call_model(model: Callable[..., Any], inputs: Any) -> Any:
    """Call a model with a tensor, a tuple of arguments or a mapping of keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def _runs_channels_last(model: Callable[..., Any], first: Any) -> bool:
    """Whether the model can read images laid out so: `view` across channels cannot."""
    if not isinstance(first, Tensor) or first.dim() != 4:
        return False
    pair = torch.cat([first, first]).contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            call_model(model, pair)
    except Exception:  # anybody's forward pass; it may take one batch size only
        return False
    return True


class _FoldingError(Exception):
    """A folded layer's output went somewhere else than into its BatchNorm."""


class _Watch(TorchFunctionMode):
    """Records layer calls, and what becomes of their outputs.

    Attributes:
        weights: of all convolutions of images together.
        convolved: numbers that these return.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = self.convolved = 0
        self._outputs: list[Tensor] = []  # kept alive, so that an id names one tensor
        self._numbers: dict[int, int] = {}
        self._uses: dict[int, list[bool]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is not Tensor.dim:
            for value in _flat((*args, *kwargs.values())):
                number = self._numbers.get(id(value))
                if number is not None:
                    self._uses[number].append(_folds_into(func, args, kwargs))
        if func in _LAYERS:
            number = len(self._outputs)
            if func is torch.conv2d:
                self.weights += (args[1] if len(args) > 1 else kwargs["weight"]).numel()
                self.convolved += result.numel()
            self._outputs.append(result)
            self._numbers[id(result)] = number
            self._uses[number] = []
        return result

    def leave(self, outputs: Any) -> None:
        """Note what leaves the model: somebody else will read it."""
        for value in tree_leaves(outputs):
            if isinstance(value, Tensor):
                number = self._numbers.get(id(value))
                if number is not None:
                    self._uses[number].append(False)
            elif value is not None and not isinstance(value, bool | int | float | str):
                # An object of an unknown kind may hold any of them.
                self._uses.clear()

    def foldable(self) -> list[int]:
        return [number for number, uses in self._uses.items() if uses == [True]]


class _Fold(TorchFunctionMode):
    """Skips the folded layers and runs them, with folded weights, in place of their BatchNorm."""

    def __init__(self, folded: frozenset[int], layers: "_Layers") -> None:
        super().__init__()
        self._folded, self._layers = folded, layers
        self._count = 0
        self._waiting: dict[int, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}
        self._stubs: list[Tensor] = []  # kept alive, so that an id names one tensor
        self._spent: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _LAYERS:
            number, self._count = self._count, self._count + 1
            if number in self._folded:
                inputs = args[0] if args else kwargs["input"]
                stub = inputs.new_empty(()).expand([1] * inputs.dim())
                self._stubs.append(stub)
                self._waiting[id(stub)] = (func, args, kwargs)
                return stub
        if func is Tensor.dim:
            return func(*args, **kwargs)
        for value in _flat((*args, *kwargs.values())):
            if id(value) in self._spent:
                raise _FoldingError
            if id(value) in self._waiting:
                if not _folds_into(func, args, kwargs):
                    raise _FoldingError
                self._spent.add(id(value))
                layer, given, named = self._waiting.pop(id(value))
                norm = _BATCH_NORM.bind(*args, **kwargs)
                return _folded_layer(layer, given, named, norm, self._layers)
        return func(*args, **kwargs)


def _folds_into(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call is an eval-mode BatchNorm with running statistics."""
    if func is not F.batch_norm:
        return False
    bound = _BATCH_NORM.bind(*args, **kwargs).arguments
    return not bound.get("training", False) and bound["running_mean"] is not None


_Layers = dict[tuple[Any, ...], tuple[Tensor, Tensor, tuple[Any, ...]]]
"""Folded weights and biases by the identities of what they are made from, which is kept alive."""


def _folded_layer(
    layer: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    norm: inspect.BoundArguments,
    layers: _Layers,
) -> Tensor:
    norm.apply_defaults()
    _, mean, variance, gamma, beta, _, _, epsilon = norm.arguments.values()
    named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    weight, bias = named["weight"], named.get("bias")
    parts = (weight, bias, mean, variance, gamma, beta)
    key = (*map(id, parts), epsilon)
    if key not in layers:
        scale = torch.rsqrt(variance + epsilon)
        scale = scale if gamma is None else gamma * scale
        shift = -mean * scale if bias is None else (bias - mean) * scale
        shift = shift if beta is None else shift + beta
        layers[key] = (weight * scale.view(-1, *[1] * (weight.dim() - 1)), shift, parts)
    scaled, shift, _ = layers[key]
    rest = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}
    result: Tensor = layer(named["input"], scaled, shift, *args[3:], **rest)
    return result


def _flat(values: Any) -> list[Tensor]:
    """Tensors among a call's arguments, one level of tuples and lists deep."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list):
            found += [item for item in value if isinstance(item, Tensor)]
    return found
