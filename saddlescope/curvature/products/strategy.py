"""Which kind of product a job uses, and the traced programs its rows share.

Tracing takes seconds and saves most of a row's float64 check, so it pays where rows have more
samples than a traced row is checked on, and many. Whether they do is decided from operation counts,
never from a clock: a job that is cut and started again must decide the same way, or its table would
differ in the last digits.
"""

import copy
import logging
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from saddlescope.curvature.memory import is_out_of_memory
from saddlescope.curvature.objective import (
    Batch,
    BatchLoss,
    Criterion,
    Objective,
    call_model,
    exact_arithmetic,
    untouched,
)
from saddlescope.curvature.products.graphs import RecordingError, TraceError
from saddlescope.curvature.products.linearisations import DoubleBackward, Linearisation, Traced
from saddlescope.curvature.products.recording import first_line
from saddlescope.curvature.products.replay import (
    TRACING_PAYS_FROM_ROWS,
    CudaGraphs,
    Recordings,
    Replayed,
    replayed_size,
)
from saddlescope.curvature.products.tracing import PRIMES, TracedProgram
from saddlescope.errors import SaddlescopeError, UsageError

Strategy = Literal["auto", "double-backward", "traced"]
log = logging.getLogger("saddlescope.curvature")

TRACING_PAYS_FROM = 4e11
"""Operations that tracing must save a whole job to be worth its seconds on a CPU: a row of 80
images of a ResNet-32, whose trace takes 4 s. Measured by benchmarks/tracing.py."""

_CHECK = 10.0
"""Gradients of float32 that the float64 check of an untraced row takes, for each of its samples."""

_SAVED = 0.05
"""Share of the products' cost that tracing saves from some 100 images on; counted for every row."""

BRANCHES_COUNT_UP_TO = 2048
"""Samples up to which a single branch (the sign of one ReLU's input) may show in a class's Hessian:
it weighs 1/n. Up to them a traced forward pass runs in float64 (about 5 gradients of float32 each
on a CPU), and the rounding of an untraced row is measured on all of them. Larger rows are streamed,
a float64 pass for every product would cost more than it tells, and some samples stand for all."""

TRACE_TOLERANCE = 1e4
"""Relative error, in units of the dtype's rounding, above which a traced product is refused."""

TYPICAL_PRODUCTS = 30
"""Products that a row takes, for plans made before it is measured."""


def branches_count(samples: int) -> bool:
    """Return whether a row of so many samples is one where a single branch may show."""
    return samples <= BRANCHES_COUNT_UP_TO


def checked_samples(samples: int, *, exact: bool) -> int:
    """Return how many of a row's samples its rounding is measured on; see `product_error`.

    Args:
        samples: of the row.
        exact: whether its branches are those of a float64 forward pass.
    """
    # Without branches of its own to decide, one sample's rounding is much like another's; but among
    # a few, one may hold most of an eigenvector, and with it most of the error.
    chosen = 8 + samples // 64 if exact else 2 + samples // 16
    if (branches_count(samples) and not exact) or chosen >= 0.5 * samples:
        return samples
    return chosen


def operations_saved(rows: Iterable[int], *, gradient: float) -> float:
    """Count what tracing saves a job with rows of so many samples; may be negative.

    Args:
        rows: number of samples of each.
        gradient: operations of one sample's gradient.
    """
    # A trace is itself checked against float64, on two samples.
    return gradient * (sum(map(_gradients_saved, rows)) - 2.0 * _CHECK)


def _gradients_saved(samples: int) -> float:
    """By tracing, for a row of so many samples: gradients of a single one."""
    traced = checked_samples(samples, exact=branches_count(samples))
    fewer = checked_samples(samples, exact=False) - traced
    return _CHECK * fewer + _SAVED * DoubleBackward.retained_cost * TYPICAL_PRODUCTS * samples


class Programs:
    """Keep the traced programs of a job: one for each model, criterion and sample shape.

    Args:
        strategy: "traced" always tries to trace, "double-backward" never does, "auto" does so
            when `expect` has announced enough work.
        replay: on CUDA, record small products once and replay them; False launches every kernel
            of every product, which only a benchmark wants.
    """

    def __init__(self, strategy: Strategy = "auto", *, replay: bool = True) -> None:
        if strategy not in ("auto", "double-backward", "traced"):
            raise UsageError(f"strategy {strategy!r}: expected auto, double-backward or traced")
        self.strategy = strategy
        self._replays = replay
        self._traces = strategy == "traced"
        self._programs: dict[object, TracedProgram | None] = {}
        self._recordings: dict[TracedProgram, Recordings] = {}
        self._named: list[object] = []
        self._guarded: set[object] = set()

    @property
    def traced(self) -> bool:
        """Return whether any program was traced, and not refused."""
        return any(program is not None for program in self._programs.values())

    def expect(self, objective: Objective, rows: Iterable[int]) -> None:
        """Announce the rows of a job by their numbers of samples; "auto" decides here, and logs it.

        Args:
            objective: of any of them.
            rows: number of samples of each.
        """
        if self.strategy != "auto":
            return
        rows = list(rows)
        if objective.vector.device.type == "cuda":
            self._traces = len(rows) >= TRACING_PAYS_FROM_ROWS
            log.info(
                "products: %s (%d rows in this job; tracing pays from %d)",
                "traced" if self._traces else "double backward", len(rows), TRACING_PAYS_FROM_ROWS,
            )  # fmt: skip
            return
        try:
            gradient = 3.0 * _forward_operations(objective, next(objective.batches()))
        except Exception as error:  # anybody's forward pass, under a counter of its operations
            if is_out_of_memory(error) or isinstance(error, SaddlescopeError):
                raise
            log.info(
                "products: double backward (operations cannot be counted: %s)", first_line(error)
            )
            return
        operations = operations_saved(rows, gradient=gradient)
        self._traces = operations >= TRACING_PAYS_FROM
        log.info(
            "products: %s (tracing would save about %.1e operations in this job; pays from %.0e)",
            "traced" if self._traces else "double backward",
            max(operations, 0.0),
            TRACING_PAYS_FROM,
        )

    def guarded(self, objective: Objective, when: str) -> bool:
        """Return whether this job's derivatives were checked already; from now on they are.

        Args:
            objective: of any row.
            when: which of the job's checks is meant.
        """
        key = (when, id(objective.original), id(objective.criterion), objective.vector.names)
        done = key in self._guarded
        self._named.append((objective.original, objective.criterion))
        self._guarded.add(key)
        return done

    def linearise(self, objective: Objective, batch: Batch) -> Linearisation:
        """Linearise a batch in the way this job has chosen."""
        program = self._program(objective, batch) if self._traces else None
        if program is None:
            return DoubleBackward(objective, batch)
        # By the sample count, never by free memory: a row must not depend on that.
        exact = program.exact and branches_count(objective.n)
        size = replayed_size(program, objective) if self._replays else None
        if size is not None:
            made = self._recordings.setdefault(program, Recordings(CudaGraphs()))
            return Replayed(program, objective, batch, exact=exact, size=size, recordings=made)
        return Traced(program, objective, batch, exact=exact)

    def _program(self, objective: Objective, batch: Batch) -> TracedProgram | None:
        inputs, targets = batch.inputs, batch.targets
        if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor)):
            return None
        key = (
            id(objective.model),
            objective.vector.names,
            tuple(tensor.shape for tensor in objective.vector.tensors),
            objective.vector.dtype,
            objective.vector.device,
            id(objective.criterion),
            objective.reduction,
            inputs.shape[1:],
            inputs.dtype,
            targets.shape[1:],
            targets.dtype,
        )
        if key not in self._programs:
            # Kept alive, because an id may be given away again once its object is gone.
            self._named.append((objective.model, objective.criterion))
            self._programs[key] = self._trace(objective, inputs, targets)
        return self._programs[key]

    @staticmethod
    def _trace(objective: Objective, inputs: Tensor, targets: Tensor) -> TracedProgram | None:
        try:
            # What was recorded on images that are laid out runs on any, not the other way round.
            inputs = objective.folding.lay_out(inputs)
            try:
                program = _checked_program(objective, inputs, targets, PRIMES[0])
            except RecordingError:
                raise
            except TraceError:
                program = _checked_program(objective, inputs, targets, PRIMES[1])
        except TraceError as error:
            log.warning("products: double backward, because tracing was refused: %s", error)
            return None
        log.info(
            "products: traced once for this job (%d operations each%s)",
            program.operations,
            ", forward pass in float64" if program.exact else "",
        )
        return program


def _checked_program(
    objective: Objective, inputs: Tensor, targets: Tensor, prime: int
) -> TracedProgram:
    """A program whose product is that of double backward."""
    few = Batch(
        objective.folding.prepare(inputs[:2].contiguous()), targets[:2], 1.0, len(targets[:2])
    )
    program = TracedProgram(
        objective.model,
        objective.vector,
        objective.folding,
        unreduced(objective.criterion),
        inputs,
        targets,
        prime=prime,
    )
    try:
        if program.exact:
            program.exact = _exact_forward_agrees(program, objective, few)
        if program.exact:
            return program
        difference = _difference(program, objective, objective, few)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        # A number of the graph was wrongly taken for the batch size's, or two samples alone cannot
        # be evaluated: double backward does without either.
        raise TraceError(first_line(error)) from error
    if not difference <= TRACE_TOLERANCE * torch.finfo(objective.vector.dtype).eps:
        raise TraceError(f"its product differs from double backward's by {difference}")
    return program


def unreduced(criterion: Criterion) -> Criterion:
    """Return the criterion with one loss a sample, where it has a `reduction` to say so."""
    if getattr(criterion, "reduction", "none") == "none":
        return criterion
    copied: Any = copy.copy(criterion)
    copied.reduction = "none"
    return copied


def _exact_forward_agrees(program: TracedProgram, objective: Objective, few: Batch) -> bool:
    """Whether the mixed-precision product is that of the float64 network."""
    try:
        difference = _difference(program, objective, objective.double(), few)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        # A model that cannot be copied, or an operation that does not run in this layout.
        log.info("products: no float64 forward pass (%s)", first_line(error))
        return False
    return difference <= TRACE_TOLERANCE * torch.finfo(torch.float32).eps


def _difference(
    program: TracedProgram, objective: Objective, trusted: Objective, few: Batch
) -> float:
    """Relative difference of a traced product from double backward's on another objective."""
    vector = objective.vector
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(vector.size, generator=generator, dtype=torch.float64).to(vector.device)
    traced = Traced(program, objective, few, exact=program.exact)
    mine = traced.apply(vector.split(probe.to(vector.dtype)))
    dtype = trusted.vector.dtype
    inputs = few.inputs.to(dtype) if few.inputs.is_floating_point() else few.inputs
    targets = few.targets.to(dtype) if few.targets.is_floating_point() else few.targets
    with untouched(trusted.model), exact_arithmetic(), torch.enable_grad():
        twice = DoubleBackward(trusted, Batch(inputs, targets, few.share, few.count))
        truth = twice.apply(trusted.vector.split(probe.to(dtype)))
    found, expected = vector.flatten(mine).double(), trusted.vector.flatten(truth).double()
    return float((found - expected).norm()) / max(
        float(expected.norm()), float(torch.finfo(vector.dtype).tiny)
    )


def _forward_operations(objective: Objective, batch: Batch) -> float:
    """Floating-point operations of one sample's forward pass, convolutions and products only."""
    inputs = batch.inputs
    counter = FlopCounterMode(display=False)
    # With gradients: a model may differentiate inside.
    with untouched(objective.model), exact_arithmetic(), torch.enable_grad(), counter:
        if isinstance(objective.criterion, BatchLoss):
            objective.batch_loss(batch)
            shared = batch.count
        else:
            call_model(objective.model, inputs[:1] if isinstance(inputs, Tensor) else inputs)
            shared = 1 if isinstance(inputs, Tensor) else batch.count
    return float(counter.get_total_flops()) / shared
