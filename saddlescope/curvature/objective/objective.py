"""An objective: a loss as a function of w, over a fixed set of samples, reduced exactly.

The value does not depend on how the samples are split into batches: each batch's loss enters
with its exact share of the whole (its sample count, or its sum of class weights when the
criterion is a class-weighted mean).
"""

import copy
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from saddlescope.curvature.memory import default_budget, is_out_of_memory
from saddlescope.curvature.objective.agreeing import refuse_ranks_apart
from saddlescope.curvature.objective.batches import BatchLoss, InDouble, detached
from saddlescope.curvature.objective.counting import batch_weight, divisible, pair
from saddlescope.curvature.objective.embeddings import within_max_norm
from saddlescope.curvature.objective.forward import Folding, call_model
from saddlescope.curvature.objective.parameters import (
    Choice,
    ParameterVector,
    as_patterns,
    in_double,
    select_parameters,
)
from saddlescope.curvature.objective.recutting import Recut
from saddlescope.curvature.objective.shares import Batch, SharedOut, moved
from saddlescope.curvature.objective.sources import (
    FROZEN,
    ONCE,
    REFUSED,
    FixedBatches,
    Randomness,
    Reading,
)
from saddlescope.curvature.objective.state import (
    exact_arithmetic,
    held_attributes,
    uncompiled,
    untouched,
)
from saddlescope.errors import DataError, OperatorError, UsageError
from saddlescope.parallel import ranks_of

log = logging.getLogger("saddlescope.curvature")

Criterion = Callable[[Any, Any], Tensor] | BatchLoss


class WeightlessError(DataError):
    """Samples that all weigh nothing."""


class ObjectiveOptions(TypedDict, total=False):
    """Name the options of `Objective` as keywords of what is built upon it."""

    parameters: Choice | None
    weight_decay: float
    reduction: str | None
    memory_budget: int | None
    batch_size: int | None
    randomness: Randomness


class Objective(SharedOut):
    """Evaluate L(w) = Σ_b share_b · criterion(model(x_b), y_b) + ½·weight_decay·‖w‖².

    With a `BatchLoss` a term is function(model, batch_b) instead.

    Args:
        model: any module, in the mode it is to be analysed in.
        criterion: `criterion(outputs, targets) -> scalar`, or one loss a sample. Its
            `reduction` attribute ("mean", "sum", "none"), its `weight` and `ignore_index` are
            honoured; a plain function is taken as a mean over the samples. Or a `BatchLoss`.
        batches: iterable of (inputs, targets), with a `BatchLoss` of anything; read once and kept
            (see `FixedBatches`). Inputs that are tuples or dicts are unpacked into the model's
            call; targets may be a tensor, several in a tuple or a dict, or one item a sample.
            `SharedBatches` are this rank's part of them.
        parameters: that make up w, by patterns of their names or themselves; None for all
            trainable ones.
        weight_decay: factor of the optional L2 term.
        reduction: overrides what the criterion says of itself.
        reading: how the samples are read.

    Attributes:
        model: the model; a copy where it would change its own embeddings.
        n: number of samples.
        notes: what a careful reader should know, one sentence each.
        largest: samples of the largest batch.
        chunk: samples that are evaluated together at most; larger batches are divided. None
            leaves them as they are. Changes no number beyond rounding.

    Raises:
        UsageError: no parameters, several dtypes, unknown reduction, ranks that differ, a data set
            in the place of batches.
        DataError: no samples, or batches that are not (inputs, targets).
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        batches: Iterable[Any],
        *,
        parameters: Choice | None = None,
        weight_decay: float = 0.0,
        reduction: str | None = None,
        reading: Reading | None = None,
    ) -> None:
        self.reading = reading = reading or Reading()
        self.notes: list[str] = list(getattr(batches, "notes", ()))
        if isinstance(batches, Iterator) and reading.randomness == "refuse":
            raise OperatorError(f"{ONCE}, and randomness is 'refuse': give a list or a loader")
        if isinstance(criterion, type):
            raise UsageError(f"criterion is the class {criterion.__name__}: hand over one of it")
        if isinstance(batches, Dataset) and not isinstance(batches, IterableDataset):
            raise UsageError(
                f"batches is a data set ({type(batches).__name__}), whose items are samples: hand "
                "over a DataLoader of it, or take class_spectra, which reads it"
            )
        self.criterion = criterion
        model = self.original = uncompiled(model)
        self._whole = criterion if isinstance(criterion, BatchLoss) else None
        parameters = as_patterns(model, parameters)
        select_parameters(model, parameters)
        self.weight_decay = weight_decay
        self.reduction: str = reduction or str(getattr(criterion, "reduction", "mean"))
        if self.reduction not in ("mean", "sum", "none"):
            raise UsageError(
                f"reduction {self.reduction!r}: expected 'mean', 'sum' or 'none' "
                "(pass reduction=... if the criterion's attribute means something else)"
            )
        self._folding: Folding | None = None
        self.ranks = ranks_of(batches)
        shared = batches
        if reading.batch_size is not None:
            given = list(batches) if isinstance(batches, Iterator) else batches
            batches = Recut(given, reading.batch_size, whole=self._whole is not None)
        budget = reading.memory_budget
        if budget is None:
            budget = default_budget(torch.device("cpu"))
        self.source: Iterable[Any] = FixedBatches(batches, budget=budget)
        self.chunk: int | None = None
        self.model = within_max_norm(model, self._call_on_all)
        if self.model is not model:
            self.note(
                "rows of an embedding that are longer than its max_norm were cut in a copy of the "
                "model, as a forward pass does: the matrix is that at the cut weights"
            )
        self.vector: ParameterVector = select_parameters(self.model, parameters)
        self._patterns = None if parameters is None else self.vector.names
        self._divisible = True
        counts, weights = [], []
        for batch in self.source:
            count, weight = self._count(batch)
            self._divisible &= self._whole is None and divisible(batch, count)
            counts.append(count)
            weights.append(weight)
        self._mine = sum(counts), sum(weights), len(counts)
        options = self.vector.names, weight_decay, self.reduction
        refuse_ranks_apart(self.ranks, self.model, criterion, shared, options)
        n, total = self.ranks.totals(*self._mine[:2])
        self.n, self.largest = int(n), max(counts, default=0)
        self._total = 1.0 if self.reduction == "sum" else float(total)
        if self.n == 0 or self._total <= 0:
            if self.n == 0:
                raise DataError("no samples: the loss of an empty set has no Hessian")
            raise WeightlessError(
                "the weights of these samples sum to zero: their mean is undefined"
            )

    @property
    def divisor(self) -> float:
        """What the sum over all samples is divided by: their weights', or 1 of a sum."""
        return self._total

    quiet = True  # whether a pass for the value alone runs without gradients

    def with_gradients(self) -> "Objective":
        """Return the same objective, with gradients on where its value alone is wanted."""
        other = copy.copy(self)
        other.quiet = False
        return other

    def unfolded(self) -> "Objective":
        """Return the same objective with every module called as it is; see `Folding`."""
        other = copy.copy(self)
        other._folding = copy.copy(self.folding)
        other._folding.folded = frozenset()
        return other

    def judge_data(self, *, changes: bool) -> None:
        """Note whether the data are others when they are read again, or refuse them.

        Raises:
            OperatorError: they are, and the randomness asked for is "refuse".
        """
        if self.reading.randomness == "frozen":
            if changes:
                self.note(FROZEN)
            return
        if changes or FROZEN in self.notes:
            raise OperatorError(REFUSED)
        if ONCE in self.notes:
            raise OperatorError(f"{ONCE}, and randomness is 'refuse': give a list or a loader")
        self.note("randomness is refused: the data were the same when read again", loud=False)

    def note(self, text: str, *, loud: bool = True) -> None:
        """Add a sentence to the notes, once; a loud one is a warning in the log."""
        if text not in self.notes:
            self.notes.append(text)
            log.log(logging.WARNING if loud else logging.INFO, "%s", text)

    def batch_loss(
        self, batch: Batch, *, criterion: Criterion | None = None, hold: bool = True
    ) -> Tensor:
        """Return the batch's term of the objective, a scalar with a graph.

        Args:
            batch: one of `batches()`.
            criterion: called in place of the objective's own, and reduced as that one.
            hold: put back what the model keeps from call to call as plain attributes.
        """
        criterion = self.criterion if criterion is None else criterion
        with held_attributes(self.model) if hold else nullcontext():
            values = self.folding.run(self.model, batch.inputs)
            if not isinstance(criterion, BatchLoss):  # whose forward pass ends with the loss
                values = criterion(values, batch.targets)
        if values.dim() > 0:
            values = values.sum() if self.reduction == "sum" else values.mean()
        return values * batch.share

    def element_weight(self, batch: Batch, elements: int) -> float:
        """Return the factor with which each unreduced loss of a batch enters the objective.

        Args:
            batch: one of `batches()`.
            elements: losses a sample, 1 unless the criterion is elementwise.
        """
        if self.reduction == "sum":
            return batch.share
        if self.reduction == "mean" and getattr(self.criterion, "reduction", None) == "mean":
            weight = batch_weight(self.criterion, batch.targets, batch.count, "mean")
            return batch.share / weight
        return batch.share / (batch.count * elements)

    def loss(self) -> float:
        """Return L(w), by forward passes alone."""
        with untouched(self.model), exact_arithmetic():
            mine = sum(self.value(batch) for batch in self.batches())
            return self.total(float(mine))

    def value(self, batch: Batch) -> Tensor:
        """Return the batch's term of the objective without a graph, a float64 scalar."""
        if not self.quiet:
            with torch.enable_grad():
                return self.batch_loss(batch).detach().double()
        try:
            with torch.no_grad():
                return self.batch_loss(batch).double()
        except Exception as error:
            if is_out_of_memory(error):
                raise
        # A model that differentiates inside needs its gradients here too.
        with torch.enable_grad():
            value = self.batch_loss(batch).detach().double()
        self.quiet = False
        return value

    def total(self, mine: float) -> float:
        """Return L(w) from the sum of this rank's terms."""
        return self.ranks.totals(mine)[0] + self._penalty()

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """Return L(w) and ∇L(w), shape (n,): a forward and a backward pass a batch, nothing kept.

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
        """Return the same objective in float64 on a copy of the model.

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
        exact.model, exact.criterion = in_double(self.model), criterion
        exact.original = exact.model
        exact._whole = criterion if isinstance(criterion, BatchLoss) else None
        exact.vector = select_parameters(exact.model, self._patterns)
        exact.source, exact._folding = InDouble(self.source), None
        return exact

    def _call_on_all(self, model: nn.Module) -> None:
        """Run the model on every batch."""
        device = next(model.parameters()).device
        for batch in self.source:
            if self._whole is not None:
                self._whole(model, detached(batch, device))
            else:
                call_model(model, moved(pair(batch)[0], device))

    def _penalty(self) -> float:
        if not self.weight_decay:
            return 0.0
        squares = sum(p.detach().double().square().sum() for p in self.vector.tensors)
        return 0.5 * self.weight_decay * float(squares)
