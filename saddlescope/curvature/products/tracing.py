"""One traced Hessian-vector product for a whole job: forward over reverse, split in two.

The gradient of a batch's loss is run once on dual numbers (forward-mode AD over reverse-mode)
and recorded as a graph of tensor operations whose inputs are the parameters, the buffers, the
batch and the direction v. Then

- what does not depend on v (the primal: activations, the gradient) runs once a batch,
- what depends on v (the tangent) runs once a product: 2 gradients by operation count, without
  autograd's bookkeeping.

The primal's forward half may run in float64 and be rounded afterwards. Every branch that the
network takes (the sign of a ReLU's input, the place of a maximum) is then the one that it takes
in exact arithmetic, and what remains of float32's error is smooth: without it a single sign can
change a class Hessian by more than all other rounding together.

The batch size becomes a variable by recording at a prime: its multiples among the numbers of the
graph are taken for the batch size's. Where the product that follows is wrong (it is compared with
double backward's, at another size), a number of the network's own was one of them, and it is
recorded anew at another prime. A product that still differs refuses the trace.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import grad_and_value

from saddlescope.curvature.objective import Folding, ParameterVector, call_with
from saddlescope.curvature.products.division import divide
from saddlescope.curvature.products.graphs import RecordingError, cleaned, free_batch_size
from saddlescope.curvature.products.recording import first_line, record

PRIMES = (211, 223)
"""Batch sizes to record at: the second one where the first is taken for a number of the network."""


class TracedProgram:
    """Record both halves of a product, for one model structure and one sample shape.

    Args:
        model: the module whose structure is recorded; its values are inputs.
        vector: the parameters that make up w.
        folding: how the forward pass is run.
        criterion: `criterion(outputs, targets)`, one loss a sample (or an element of it); a scalar
            is taken as their mean.
        inputs: one batch of inputs, a tensor of shape (n, …).
        targets: its targets, a tensor of shape (n, …).
        prime: the batch size to record at, of `PRIMES`.

    Attributes:
        parts: the recording, divided.
        elements: losses a sample, each of which enters with the sample's weight; 0 for a criterion
            that only tells their mean.
        exact: whether the forward half can run in float64 and be rounded; may be set to False.

    Raises:
        RecordingError: the model or the criterion does something that cannot be recorded.
        TraceError: the recording cannot be divided.
    """

    def __init__(
        self,
        model: nn.Module,
        vector: ParameterVector,
        folding: Folding,
        criterion: Callable[[Any, Any], Tensor],
        inputs: Tensor,
        targets: Tensor,
        *,
        prime: int = PRIMES[0],
    ) -> None:
        function = _dual_gradient(model, vector, folding, criterion)
        self.elements = _elements(model, folding, criterion, inputs, targets)
        points = [p.detach() for p in vector.tensors]
        self._criterion = criterion
        others = _others(model, vector, criterion)
        batch = [_resized(inputs, prime), _resized(targets, prime), points[0].new_ones(prime)]
        directions = [torch.zeros_like(p) for p in points]
        traced = record(function, points, others, *batch, directions)
        module, self._constants = cleaned(traced, after=len(points) + len(others))
        free_batch_size(module.graph, prime)
        first = len(points) + len(others) + len(self._constants) + 3
        self.parts = divide(module, first_direction=first)
        self.exact = vector.dtype == torch.float32 and self.parts.exact_forward is not None
        self._parameters = len(points)

    @property
    def operations(self) -> int:
        """Count the tensor operations of one product."""
        return sum(node.op == "call_function" for node in self.parts.tangent.graph.nodes)

    def linearise(
        self,
        vector: ParameterVector,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        *,
        exact: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Any]]:
        """Run the primal half.

        Args:
            vector: the parameters that make up w.
            model: holds the others, and the buffers.
            inputs: shape (n, …).
            targets: shape (n, …).
            weights: of the samples, shape (n,); read if `elements` is not 0.
            exact: run the forward pass in float64; see `TracedProgram.exact`.

        Returns:
            The loss (a scalar), the gradient (a tensor a parameter) and what `product` needs.
        """
        points = [p.detach() for p in vector.tensors]
        others = _others(model, vector, self._criterion)
        given = (*points, *others, *self._constants, inputs, targets, weights)
        forward = self.parts.exact_forward if exact else self.parts.forward
        assert forward is not None
        with torch.no_grad():
            doubled = [_in_double(value) for value in given] if exact else given
            loss, *crossing = forward(*doubled, len(inputs))
            del doubled
            outputs = self.parts.backward(*given, len(inputs), *crossing)
        return loss, list(outputs[: self._parameters]), outputs[self._parameters :]

    def product(self, kept: list[Any], parts: list[Tensor]) -> list[Tensor]:
        """Run the tangent half for a direction given as a tensor a parameter."""
        with torch.no_grad():
            found: list[Tensor] = list(self.parts.tangent(*kept, *parts))
        return found


def _in_double(value: Tensor) -> Tensor:
    """In float64 and contiguous: float64 convolutions know no other layout."""
    return value.double().contiguous() if value.dtype == torch.float32 else value


def _dual_gradient(
    model: nn.Module,
    vector: ParameterVector,
    folding: Folding,
    criterion: Callable[[Any, Any], Tensor],
) -> Callable[..., Any]:
    names = _other_names(model, vector)
    own_names = list(_tensors(criterion)) if isinstance(criterion, nn.Module) else []

    def function(
        points: list[Tensor],
        others: list[Tensor],
        inputs: Tensor,
        targets: Tensor,
        weights: Tensor,
        directions: list[Tensor],
    ) -> tuple[Any, ...]:
        fixed = dict(zip(names, others[: len(names)], strict=True))
        measure = criterion
        if isinstance(criterion, nn.Module):
            own = dict(zip(own_names, others[len(names) :], strict=True))

            def measure(*arguments: Any) -> Tensor:
                found: Tensor = call_with(criterion, own, arguments)
                return found

        def loss(at: list[Tensor]) -> Tensor:
            named = dict(zip(vector.names, at, strict=True)) | fixed

            def call(*arguments: Any) -> Any:
                return call_with(model, named, arguments)

            values = measure(folding.run(call, inputs), targets)
            if values.dim() == 0:
                return values
            return (values * weights.view(-1, *[1] * (values.dim() - 1))).sum()

        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(p, v) for p, v in zip(points, directions, strict=True)]
            gradients, value = grad_and_value(loss)(duals)
            halves = [forward_ad.unpack_dual(gradient) for gradient in gradients]
            return (
                forward_ad.unpack_dual(value).primal,
                *(half.primal for half in halves),
                *(
                    torch.zeros_like(half.primal) if half.tangent is None else half.tangent
                    for half in halves
                ),
            )

    return function


def _elements(
    model: nn.Module,
    folding: Folding,
    criterion: Callable[[Any, Any], Tensor],
    inputs: Tensor,
    targets: Tensor,
) -> int:
    try:
        values = criterion(folding.run(model, inputs[:1]), targets[:1])
    except Exception as error:  # anybody's forward pass
        raise RecordingError(
            f"one sample alone cannot be evaluated ({first_line(error)})"
        ) from error
    return values.numel() if values.dim() > 0 else 0


def _other_names(model: nn.Module, vector: ParameterVector) -> list[str]:
    """Buffers, and the parameters that w leaves out: inputs of the graph, not constants in it.

    So are the criterion's own tensors (class weights, margins), which follow them.
    """
    mine = set(vector.names)
    parameters = [name for name, _ in model.named_parameters() if name not in mine]
    return parameters + [name for name, _ in model.named_buffers()]


def _others(model: nn.Module, vector: ParameterVector, criterion: object) -> list[Tensor]:
    named = _tensors(model)
    own = _tensors(criterion).values() if isinstance(criterion, nn.Module) else ()
    return [named[name] for name in _other_names(model, vector)] + list(own)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without their history."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}


def _resized(batch: Tensor, size: int) -> Tensor:
    """The first sample `size` times, in the batch's memory layout."""
    repeated = batch[:1].expand(size, *batch.shape[1:])
    if batch.dim() == 4 and batch.is_contiguous(memory_format=torch.channels_last):
        return repeated.contiguous(memory_format=torch.channels_last)
    return repeated.contiguous()
