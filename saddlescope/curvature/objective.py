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

from saddlescope.curvature.batches import (
    BatchLoss,
    InDouble,
    batch_length,
    detached,
    has_rows,
    map_tensors,
    rows,
)
from saddlescope.curvature.distributed import ranks_of
from saddlescope.curvature.forward import ForwardPlan
from saddlescope.curvature.parameters import ParameterVector, select_parameters
from saddlescope.curvature.state import exact_arithmetic, untouched
from saddlescope.errors import DataError, UsageError

Criterion = Callable[[Any, Any], Tensor] | BatchLoss


@dataclass(frozen=True)
class Batch:
    """One batch on the device, with its share of the objective.

    Under a `BatchLoss` the inputs are the whole batch, and there are no targets.
    """

    inputs: Any
    targets: Any
    share: float


class Objective:
    """L(w) = Σ_b share_b · criterion(model(x_b), y_b) + ½·weight_decay·‖w‖².

    With a `BatchLoss` a term is function(model, batch_b) instead.

    Args:
        model: any module, in the mode it is to be analysed in.
        criterion: `criterion(outputs, targets) -> scalar`, or one loss a sample. Its
            `reduction` attribute ("mean", "sum", "none"), its `weight` and `ignore_index` are
            honoured; a plain function is taken as a mean over the samples. Or a `BatchLoss`.
        batches: iterable of (inputs, targets), with a `BatchLoss` of anything, read anew at each
            pass; a one-shot iterator is kept in memory. Inputs that are tuples or dicts are
            unpacked into the model's call.
            `SharedBatches` are this rank's part of them.
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
        self._whole = criterion if isinstance(criterion, BatchLoss) else None
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
        self.ranks = ranks_of(batches)
        self._source = list(batches) if iter(batches) is batches else batches
        self.chunk: int | None = None
        self._divisible = True
        counts, weights = [], []
        for batch in self._source:
            count, weight = self._count(batch)
            self._divisible &= self._whole is None and has_rows(_pair(batch), count)
            counts.append(count)
            weights.append(weight)
        n, total = self.ranks.totals(sum(counts), sum(weights))
        self.n, self.largest = int(n), max(counts, default=0)
        self._total = 1.0 if self.reduction == "sum" else float(total)
        if self.n == 0 or self._total <= 0:
            raise DataError(
                "no samples: the loss of an empty set has no Hessian"
                if self.n == 0
                else "the weights of these samples sum to zero: their mean is undefined"
            )

    @property
    def plan(self) -> ForwardPlan:
        """How the forward pass is run; learned from the first batch."""
        if self._plan is None:
            next(self.batches())
        assert self._plan is not None
        return self._plan

    def batches(self, *, after: int = 0) -> Iterator[Batch]:
        """Yield every batch on the parameters' device with its exact share.

        Args:
            after: of the batches that would be yielded, how many to leave out and not to prepare.
        """
        for batch in self._pieces():
            _, weight = self._count(batch)
            # Empty, or all targets ignored: the criterion would return NaN, and count for nothing.
            if weight == 0:
                continue
            if after > 0:
                after -= 1
                continue
            if self._whole is not None:
                inputs, targets = detached(batch, self.vector.device), None
            else:
                inputs, targets = (_move(part, self.vector.device) for part in _pair(batch))
            if self._plan is None:
                with untouched(self.model), exact_arithmetic():
                    self._plan = ForwardPlan(self.model, inputs, loss=self._whole)
            share = 1.0 if self.reduction == "sum" else weight / self._total
            yield Batch(self.plan.prepare(inputs), targets, share)

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
        values = self.plan.run(self.model, batch.inputs)
        if not isinstance(criterion, BatchLoss):  # whose forward pass ends with the loss
            values = criterion(values, batch.targets)
        if values.dim() > 0:
            values = values.sum() if self.reduction == "sum" else values.mean()
        return values * batch.share

    def element_weight(self, batch: Batch, elements: int) -> float:
        """The factor with which each unreduced loss of a batch enters the objective.

        Args:
            batch: one of `batches()`.
            elements: losses a sample, 1 unless the criterion is elementwise.
        """
        if self.reduction == "sum":
            return batch.share
        if self.reduction == "mean" and hasattr(self.criterion, "reduction"):
            return batch.share / batch_weight(self.criterion, batch.targets, "mean")
        return batch.share / (len(batch.targets) * elements)

    def loss(self) -> float:
        """L(w), by forward passes alone."""
        with untouched(self.model), exact_arithmetic(), torch.no_grad():
            mine = sum(self.batch_loss(batch).double() for batch in self.batches())
            return self.ranks.totals(float(mine))[0] + self._penalty()

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """L(w) and ∇L(w), shape (n,): a forward and a backward pass a batch, nothing kept.

        Raises:
            RuntimeError: the loss does not depend on the parameters.
        """
        vector = self.vector
        gradient = torch.zeros(vector.size, dtype=vector.dtype, device=vector.device)
        value = torch.zeros((), dtype=torch.float64, device=vector.device)
        with untouched(self.model), exact_arithmetic(), torch.enable_grad():
            for batch in self.batches():
                loss = self.batch_loss(batch)
                gradient += vector.flatten(
                    torch.autograd.grad(loss, vector.tensors, allow_unused=True)
                )
                value += loss.detach()
        return self.with_penalty(value.item(), gradient)

    def with_penalty(self, value: float, gradient: Tensor) -> tuple[float, Tensor]:
        """Add the other ranks' terms and the L2 term to a loss and its gradient (in place)."""
        self.ranks.total(gradient)
        if self.weight_decay:
            weights = self.vector.flatten([p.detach() for p in self.vector.tensors])
            gradient.add_(weights, alpha=self.weight_decay)
        return self.ranks.totals(value)[0] + self._penalty(), gradient

    def double(self) -> "Objective":
        """The same objective in float64 on a copy of the model.

        Raises:
            Exception: whatever the model's deepcopy raises where it cannot be copied.
        """
        criterion = self.criterion
        if isinstance(criterion, BatchLoss):
            criterion = criterion.double()
        else:
            criterion = copy.deepcopy(criterion)
            if isinstance(criterion, nn.Module):
                criterion = criterion.double()
        # A copy, not a new objective: counting its samples would take all ranks, and a rank may
        # need this one alone.
        exact = copy.copy(self)
        exact.model, exact.criterion = copy.deepcopy(self.model).double(), criterion
        exact._whole = criterion if isinstance(criterion, BatchLoss) else None
        exact.vector = select_parameters(exact.model, self._patterns)
        exact._source, exact._plan = InDouble(self._source), None
        return exact

    def _count(self, batch: Any) -> tuple[int, float]:
        """A batch's number of samples, and what its mean was divided by."""
        if isinstance(self.criterion, BatchLoss):
            length = batch_length(batch)
            return 1 if length is None else length, self.criterion.weigh(batch)
        _, targets = _pair(batch)
        return len(targets), batch_weight(self.criterion, targets, self.reduction)

    def _pieces(self) -> Iterator[Any]:
        """The batches, divided where they are larger than `chunk`."""
        for batch in self._source:
            if self.chunk is None:
                yield batch
                continue
            inputs, targets = _pair(batch)
            for first in range(0, len(targets), self.chunk):
                yield rows(inputs, first, self.chunk), rows(targets, first, self.chunk)

    def _penalty(self) -> float:
        if not self.weight_decay:
            return 0.0
        squares = sum(p.detach().double().square().sum() for p in self.vector.tensors)
        return 0.5 * self.weight_decay * float(squares)


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
            + "; batches of another kind go with a loss of your own, BatchLoss(function)"
        )
    return batch[0], batch[1]


def _move(value: Any, device: torch.device) -> Any:
    return map_tensors(value, lambda tensor: tensor.to(device, non_blocking=True))
