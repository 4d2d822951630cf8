"""An objective: a loss as a function of w, over a fixed set of samples, reduced exactly.

The value does not depend on how the samples are split into batches: each batch's loss enters
with its exact share of the whole (its sample count, or its sum of class weights when the
criterion is a class-weighted mean).
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature.forward import ForwardPlan
from saddlescope.curvature.parameters import ParameterVector, select_parameters
from saddlescope.curvature.state import exact_arithmetic, untouched
from saddlescope.errors import DataError, UsageError

Criterion = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Batch:
    """One batch on the device, with its share of the objective."""

    inputs: Any
    targets: Any
    share: float


class Objective:
    """L(w) = Σ_b share_b · criterion(model(x_b), y_b) + ½·weight_decay·‖w‖².

    Args:
        model: any module, in the mode it is to be analysed in.
        criterion: `criterion(outputs, targets) -> scalar`, or one loss a sample. Its
            `reduction` attribute ("mean", "sum", "none"), its `weight` and `ignore_index` are
            honoured; a plain function is taken as a mean over the samples.
        batches: iterable of (inputs, targets), read anew at each pass; a one-shot iterator is
            kept in memory. Inputs that are tuples or dicts are unpacked into the model's call.
        parameters: name patterns of the parameters that make up w; None for all trainable.
        weight_decay: factor of the optional L2 term.
        reduction: overrides what the criterion says of itself.

    Attributes:
        n: number of samples.
        largest: samples of the largest batch.
        chunk: samples that are evaluated together at most; larger batches are divided. None
            leaves them as they are. Changes no number beyond rounding.

    Raises:
        UsageError: no parameters, several dtypes, unknown reduction.
        DataError: no samples, or batches that are not (inputs, targets).
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        batches: Iterable[Any],
        *,
        parameters: Iterable[str] | str | None = None,
        weight_decay: float = 0.0,
        reduction: str | None = None,
    ) -> None:
        self.model = model
        self.criterion = criterion
        self.vector: ParameterVector = select_parameters(model, parameters)
        self.weight_decay = weight_decay
        self.reduction: str = reduction or str(getattr(criterion, "reduction", "mean"))
        if self.reduction not in ("mean", "sum", "none"):
            raise UsageError(
                f"reduction {self.reduction!r}: expected 'mean', 'sum' or 'none' "
                "(pass reduction=... if the criterion's attribute means something else)"
            )
        self._patterns = None if parameters is None else self.vector.names
        self._plan: ForwardPlan | None = None
        self._source = list(batches) if iter(batches) is batches else batches
        self.chunk: int | None = None
        self._divisible = True
        counts, weights = [], []
        for batch in self._source:
            inputs, targets = _pair(batch)
            self._divisible &= _has_rows((inputs, targets), len(targets))
            counts.append(len(targets))
            weights.append(batch_weight(criterion, targets, self.reduction))
        self.n, self.largest = sum(counts), max(counts, default=0)
        self._total = 1.0 if self.reduction == "sum" else float(sum(weights))
        if self.n == 0 or self._total <= 0:
            raise DataError(
                "no samples: the loss of an empty set has no Hessian"
                if self.n == 0
                else "the class weights of these samples sum to zero: their mean is undefined"
            )

    @property
    def plan(self) -> ForwardPlan:
        """How the forward pass is run; learned from the first batch."""
        if self._plan is None:
            next(self.batches())
        assert self._plan is not None
        return self._plan

    def batches(self) -> Iterator[Batch]:
        """Yield every batch on the parameters' device with its exact share."""
        for inputs, targets in self._pieces():
            weight = batch_weight(self.criterion, targets, self.reduction)
            # Empty, or all targets ignored: the criterion would return NaN, and count for nothing.
            if weight == 0:
                continue
            inputs = _move(inputs, self.vector.device)
            if self._plan is None:
                with untouched(self.model), exact_arithmetic():
                    self._plan = ForwardPlan(self.model, inputs)
            yield Batch(
                self.plan.prepare(inputs),
                _move(targets, self.vector.device),
                1.0 if self.reduction == "sum" else weight / self._total,
            )

    def halve(self) -> int | None:
        """Evaluate half as many samples together from here on.

        Returns:
            The new `chunk`; None where batches hold one sample or cannot be divided.
        """
        if self.largest <= 1 or not self._divisible:
            return None
        self.largest = self.chunk = (self.largest + 1) // 2
        return self.chunk

    def batch_loss(self, batch: Batch, *, criterion: Criterion | None = None) -> Tensor:
        """The batch's term of the objective, a scalar with a graph.

        Args:
            batch: one of `batches()`.
            criterion: called in place of the objective's own, and reduced as that one.
        """
        criterion = self.criterion if criterion is None else criterion
        values = criterion(self.plan.run(self.model, batch.inputs), batch.targets)
        if values.dim() > 0:
            values = values.sum() if self.reduction == "sum" else values.mean()
        return values * batch.share

    def loss(self) -> float:
        """L(w), by forward passes alone."""
        with untouched(self.model), exact_arithmetic(), torch.no_grad():
            total = sum(self.batch_loss(batch).double() for batch in self.batches())
            return float(total) + self._penalty()

    def with_penalty(self, value: float, gradient: Tensor) -> tuple[float, Tensor]:
        """Add the L2 term to a loss and its gradient (in place)."""
        if self.weight_decay:
            weights = self.vector.flatten([p.detach() for p in self.vector.tensors])
            gradient.add_(weights, alpha=self.weight_decay)
        return value + self._penalty(), gradient

    def double(self) -> "Objective":
        """The same objective in float64 on a copy of the model.

        Raises:
            Exception: whatever the model's deepcopy raises where it cannot be copied.
        """
        criterion = copy.deepcopy(self.criterion)
        if isinstance(criterion, nn.Module):
            criterion = criterion.double()
        twin = Objective(
            copy.deepcopy(self.model).double(),
            criterion,
            _InDouble(self._source),
            parameters=self._patterns,
            weight_decay=self.weight_decay,
            reduction=self.reduction,
        )
        twin.chunk = self.chunk
        return twin

    def _pieces(self) -> Iterator[tuple[Any, Any]]:
        """The batches, divided where they are larger than `chunk`."""
        for batch in self._source:
            inputs, targets = _pair(batch)
            step = self.chunk or len(targets)
            if len(targets) <= step:
                yield inputs, targets
                continue
            for first in range(0, len(targets), step):
                yield _rows(inputs, first, step), _rows(targets, first, step)

    def _penalty(self) -> float:
        if not self.weight_decay:
            return 0.0
        squares = sum(p.detach().double().square().sum() for p in self.vector.tensors)
        return 0.5 * self.weight_decay * float(squares)


@dataclass(frozen=True)
class _InDouble:
    """Batches with their floating-point tensors in float64."""

    source: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        for batch in self.source:
            yield _map(batch, lambda t: t.double() if t.is_floating_point() else t)


def batch_weight(criterion: Criterion, targets: Any, reduction: str) -> float:
    """What the criterion's mean over this batch was divided by.

    A mean of means weighted by this is the mean over all samples, for ragged batches, ignored
    targets and class weights alike (`torch.nn.CrossEntropyLoss` divides by the sum of the
    weights of the targets it counts).
    """
    if reduction != "mean":
        return float(len(targets))
    indices = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not hasattr(criterion, "reduction"):
        return float(len(targets))
    if indices:
        counted = targets[targets != getattr(criterion, "ignore_index", -100)]
        weight = getattr(criterion, "weight", None)
        if isinstance(weight, Tensor):
            return float(weight.detach().double().cpu()[counted.cpu()].sum())
        return float(counted.numel())
    if isinstance(targets, Tensor) and not isinstance(criterion, nn.CrossEntropyLoss):
        return float(targets.numel())
    return float(len(targets))


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DataError(
            f"a batch must be a pair (inputs, targets), not {type(batch).__name__}"
            + (f" of {len(batch)}" if isinstance(batch, tuple | list | dict) else "")
        )
    return batch[0], batch[1]


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _map(item, change) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_map(item, change) for item in value)
    return value


def _has_rows(value: Any, count: int) -> bool:
    """Whether everything in it is a tensor with one row a sample."""
    if isinstance(value, Tensor):
        return value.dim() > 0 and len(value) == count
    if isinstance(value, dict):
        return all(_has_rows(item, count) for item in value.values())
    return isinstance(value, tuple | list) and all(_has_rows(item, count) for item in value)


def _rows(value: Any, first: int, count: int) -> Any:
    return _map(value, lambda tensor: tensor[first : first + count])


def _move(value: Any, device: torch.device) -> Any:
    return _map(value, lambda tensor: tensor.to(device, non_blocking=True))
