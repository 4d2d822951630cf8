"""Matrices of an objective as operators: the Hessian, and what all of them share."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Self, TypeVar, Unpack

import torch
from torch import Tensor, nn

from saddlescope.curvature.checks import check_derivatives, verify_few, verify_loss, verify_source
from saddlescope.curvature.memory import default_budget
from saddlescope.curvature.objective import (
    Criterion,
    Objective,
    ObjectiveOptions,
    Reading,
    SharedBatches,
    explain,
    refuse_training_mode,
    uncompiled,
)
from saddlescope.curvature.operators.symmetric import SymmetricOperator
from saddlescope.curvature.products import (
    BatchProducts,
    DoubleBackward,
    Lineariser,
    Programs,
    branches_count,
    checked_samples,
)
from saddlescope.errors import OperatorError
from saddlescope.parallel import Ranks

_Result = TypeVar("_Result")


class ObjectiveOperator(SymmetricOperator):
    """Hold a matrix of an objective, the sum of one term a batch; the base of those below.

    A subclass says by `_lineariser` how a batch is linearised, and so which matrix it is. The
    arguments and errors are those of `HessianOperator`.

    Attributes:
        objective: what it is a matrix of.
        products: its products, batch by batch.
        loss: L(w).
        gradient: ∇L(w), shape (n,).
    """

    objective: Objective
    products: BatchProducts
    loss: float
    gradient: Tensor
    _checked: bool
    _programs: Programs | None

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion,
        batches: Iterable[Any],
        *,
        programs: Programs | None = None,
        **options: Unpack[ObjectiveOptions],
    ) -> None:
        refuse_training_mode(model)
        model = uncompiled(model)
        try:
            reading, rest = Reading.of(options)
            objective = Objective(model, criterion, batches, reading=reading, **rest)
            self._build(objective, reading.memory_budget, programs)
        except Exception as error:
            explain(error, model, criterion, batches)
            raise

    @classmethod
    def from_objective(
        cls,
        objective: Objective,
        *,
        memory_budget: int | None = None,
        programs: Programs | None = None,
    ) -> Self:
        """Build the operator of an objective at hand, for instance that of another operator."""
        refuse_training_mode(objective.model)
        operator = cls.__new__(cls)
        operator._build(objective, memory_budget, programs)
        return operator

    @property
    def ranks(self) -> Ranks:
        """Return who shares the samples."""
        return self.objective.ranks

    def _words(self) -> str:
        about, weights = self.objective, self.objective.vector
        whole = weights.size == sum(p.numel() for p in about.model.parameters() if p.requires_grad)
        part = (
            "" if whole else f" in {', '.join(weights.names[:3])}" + "…" * (len(weights.names) > 3)
        )
        decay = f" + {about.weight_decay:g}·I" if about.weight_decay else ""
        loss = getattr(about.criterion, "__name__", type(about.criterion).__name__)
        return (
            f"{type(self).__name__} of {type(about.original).__name__}{part}, {loss} over "
            f"{about.n:,} samples{decay}"
        )

    @property
    def retained(self) -> float:
        """Return the share of the objective whose linearisation is kept, in [0, 1]."""
        return self.products.retained

    def matvec(self, vector: Tensor) -> Tensor:
        """Return the matrix times v for v of shape (n,)."""
        self.gradient_cost += self.products.cost
        try:
            return self.products(vector)
        except Exception as error:
            explain(error, self.objective.model, self.objective.criterion, self.objective.source)
            raise

    def reference(self) -> Self | None:
        """Return the same matrix in float64 on a copy of the model; None where there is none."""
        if self.dtype == torch.float64:
            return self
        # What is retained in the working precision stays in memory, and counts.
        budget = min(self._budget_left(), default_budget(self.device))
        try:
            return self.from_objective(self.objective.double(), memory_budget=budget)
        except OperatorError:
            raise
        except (RuntimeError, TypeError, NotImplementedError):
            # A model that cannot be copied, or a loss that holds float32 tensors of its own.
            return None

    def product_error(self, vector: Tensor, product: Tensor) -> float | None:
        """Measure ‖(H₃₂ − H₆₄)·v‖ for a product at hand, on all samples or some chosen at random.

        All samples take part where float32 decides the branches: one ReLU whose input changes
        sign between the precisions can carry the whole error. Where a float64 forward pass
        decides them, and in sets so large that one sample weighs little, some samples chosen at
        random stand for all (`checked_samples`). Rounding of a sum grows at most in proportion to
        its length, so what they show is multiplied by n over their number.

        Args:
            vector: v, shape (n,).
            product: H₃₂·v.

        Returns:
            The error; None where the model cannot be copied into float64.
        """
        if self.dtype == torch.float64:
            return 0.0
        chosen = self._chosen_samples()
        operator = self if chosen is None else chosen
        reference = operator.reference()
        if reference is None:
            return None
        if chosen is not None:
            product = chosen.matvec(vector)
        exact = reference.matvec(vector.double())
        share = 1.0 if chosen is None else chosen.objective.n / self.objective.n
        self.gradient_cost += share * reference.gradient_cost
        if chosen is not None:
            self.gradient_cost += share * chosen.gradient_cost
        error = float((product.double() - exact).norm()) / share
        return error / share if self.objective.reduction == "sum" else error

    def _chosen_samples(self) -> Self | None:
        """The same matrix over a few of the samples; None where all must take part."""
        n = self.objective.n
        share = checked_samples(n, exact=self.products.exact) / n
        if share == 1.0:
            return None
        generator = torch.Generator().manual_seed(0)
        batches = []
        divisible = True
        for batch in self.objective.batches():
            inputs, targets = batch.inputs, batch.targets
            divisible = isinstance(inputs, Tensor) and isinstance(targets, Tensor)
            if not divisible:
                break
            count = max(1, math.ceil(share * len(targets)))
            picked = torch.randperm(len(targets), generator=generator)[:count].to(targets.device)
            batches.append((inputs[picked], targets[picked]))
        if not self.ranks.all(divisible):
            return None
        objective = Objective(
            self.objective.model,
            self.objective.criterion,
            SharedBatches(batches, self.ranks),
            parameters=self.objective.vector.names,
            weight_decay=self.objective.weight_decay,
            reduction=self.objective.reduction,
        )
        # The chosen few stand for all: their products must take branches as this matrix's do.
        # In a large set those are float32's, which no traced program of so few samples would take.
        programs = self._programs if branches_count(n) else None
        return self.from_objective(objective, memory_budget=self._budget_left(), programs=programs)

    def _budget_left(self) -> int:
        """Of the memory budget, what this operator does not retain itself."""
        return max(0, self._budget - self.products.nbytes)

    def verify(self) -> None:
        """Refuse what is not one fixed matrix; see the room `checks`.

        Raises:
            OperatorError: parameters or buffers changed after the operator was built, the loss is
                another one in a second pass or when a batch is split, or its derivatives are not
                those of its values; names the cause.
        """
        self.products.refuse_changes()
        objective = self.objective
        self.products.within_memory(lambda: verify_loss(objective, self.loss))
        self.gradient_cost += 1.0 / 3.0
        if self._checked:
            return
        self._checked = True
        verify_source(objective)
        self._together(lambda: self.products.within_memory(lambda: verify_few(objective)))
        self._note_unreached()
        self._check_derivatives("start")

    def check(self, vector: Tensor) -> None:
        """Hold the derivatives to differences along a vector, for instance of the final Ritz ones.

        Raises:
            OperatorError: see `check_derivatives`.
        """
        self._check_derivatives("end", vector)

    def _check_derivatives(self, when: str, vector: Tensor | None = None) -> None:
        """Check once at the start and once at the end."""
        if when not in self._done:
            self._done.add(when)
            cost = self._together(lambda: check_derivatives(self.objective, vector))
            self.gradient_cost -= self.ranks.least(-(cost or 0.0))  # the most of all ranks

    def _together(self, check: Callable[[], _Result]) -> _Result | None:
        """Check this rank's samples; where one rank refuses, all do."""
        result, refusal = None, None
        try:
            result = check()
        except OperatorError as error:
            refusal = error
        if self.ranks.any(refusal is not None):
            raise refusal or OperatorError("another process refuses its samples: see its message")
        return result

    def _note_unreached(self) -> None:
        """Name the parameters that no gradient reaches."""
        vector = self.objective.vector
        reached = torch.stack([part.any() for part in vector.split(self.gradient)]).tolist()
        names = [name for name, live in zip(vector.names, reached, strict=True) if not live]
        if names and any(reached) and not self.objective.weight_decay:
            rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
            self.objective.note(
                f"no gradient reaches {', '.join(names[:5])}{rest} (unused, or exactly zero here)",
                loud=False,
            )

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a careful reader should know of this matrix, one sentence each."""
        return tuple(self.objective.notes)

    @abstractmethod
    def _lineariser(self) -> Lineariser:
        """How a batch is linearised."""

    def _build(
        self, objective: Objective, memory_budget: int | None, programs: Programs | None
    ) -> None:
        vector = objective.vector
        # One question to the device for all parameters.
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in vector.tensors]).tolist()
        if not all(finite):
            name = vector.names[finite.index(False)]
            raise OperatorError(f"parameter {name} holds NaN or Inf: this checkpoint has diverged")
        self._checked = False
        self._done: set[str] = set()
        self._programs = programs
        self.objective = objective
        self.size, self.dtype, self.device = vector.size, vector.dtype, vector.device
        self._budget = default_budget(self.device) if memory_budget is None else memory_budget
        self.products = BatchProducts(
            objective, memory_budget=self._budget, linearise=self._lineariser()
        )
        self.loss, self.gradient = self.products.loss, self.products.gradient
        if not (math.isfinite(self.loss) and bool(torch.isfinite(self.gradient).all())):
            raise OperatorError(
                f"the loss ({self.loss:g}) or its gradient is NaN or Inf at these weights: "
                "check the inputs and the checkpoint"
            )
        self.gradient_cost = self.products.built


def objective_of(loss: Objective | ObjectiveOperator) -> Objective:
    """Return the objective itself, or the one that an operator is a matrix of."""
    return loss.objective if isinstance(loss, ObjectiveOperator) else loss


class HessianOperator(ObjectiveOperator):
    """Multiply with the Hessian ∇²L(w) of a model's mean loss over a fixed set of samples.

    Args:
        model: any module in eval mode (or without random and batch-dependent layers).
        criterion: `criterion(outputs, targets)`, or a `BatchLoss`; see `Objective`.
        batches: iterable of (inputs, targets), with a `BatchLoss` of anything; ragged batches are
            weighted exactly.
        parameters: that make up w, by patterns of their names or themselves; None for all
            trainable ones.
        weight_decay: λ of an optional ½λ‖w‖² term, which adds λ to every eigenvalue.
        reduction: overrides what the criterion says of itself.
        memory_budget: bytes for what is retained between products; None takes a share of what is
            free.
        batch_size: samples that are evaluated together, see `Objective`.
        randomness: "frozen" or "refuse", see `Objective`.
        programs: traced products to share with other operators; None differentiates twice.

    Attributes:
        loss: L(w).
        gradient: ∇L(w), shape (n,).

    Raises:
        OperatorError: a layer in train mode makes the loss random or batch-dependent, or the
            loss, the gradient or a product is NaN or Inf.
        UsageError, DataError: see `Objective`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2).double().eval()
        >>> data = [(torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1]))]
        >>> H = HessianOperator(model, torch.nn.CrossEntropyLoss(), data)
        >>> H.size, H.matvec(torch.ones(8).double()).shape
        (8, torch.Size([8]))
    """

    def _check_derivatives(self, when: str, vector: Tensor | None = None) -> None:
        if self._programs is None:
            super()._check_derivatives(when, vector)
        elif not self._programs.guarded(self.objective, when):
            # Once a job, and so not counted: a row's cost must not depend on which rows came first.
            self._together(lambda: check_derivatives(self.objective, vector))

    def _lineariser(self) -> Lineariser:
        return self._programs.linearise if self._programs else DoubleBackward
