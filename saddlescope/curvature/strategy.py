"""Which kind of product a job uses, and the traced programs its rows share.

Tracing takes seconds and saves a part of every product, so it pays for long jobs only. Whether
a job is long is decided from operation counts, never from a clock: a job that is cut and
started again must decide the same way, or its table would differ in the last digits.
"""

import logging
from typing import Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from saddlescope.curvature.forward import call_model
from saddlescope.curvature.objective import Batch, Objective
from saddlescope.curvature.products import DoubleBackward, Linearisation, Traced
from saddlescope.curvature.state import exact_arithmetic, untouched
from saddlescope.curvature.tracing import TracedProgram, TraceError
from saddlescope.errors import UsageError

Strategy = Literal["auto", "double-backward", "traced"]
log = logging.getLogger("saddlescope.curvature")

TRACING_PAYS_FROM = 3e13
"""Operations of a whole job's products from which on tracing is worth its seconds on a CPU."""

TYPICAL_PRODUCTS = 30
"""Products that a row takes, for plans made before it is measured."""


class Programs:
    """The traced programs of a job: one for each model, criterion and sample shape.

    Args:
        strategy: "traced" always tries to trace, "double-backward" never does, "auto" does so
            when `expect` has announced enough work.
    """

    def __init__(self, strategy: Strategy = "auto") -> None:
        if strategy not in ("auto", "double-backward", "traced"):
            raise UsageError(f"strategy {strategy!r}: expected auto, double-backward or traced")
        self.strategy = strategy
        self._traces = strategy == "traced"
        self._programs: dict[object, TracedProgram | None] = {}
        self._named: list[object] = []

    def expect(self, objective: Objective, samples: int) -> None:
        """Announce a job over this many samples in all; "auto" decides here, and logs why."""
        if self.strategy != "auto":
            return
        batch = next(objective.batches())
        operations = 2.0 * 3.0 * _forward_operations(objective, batch) * samples * TYPICAL_PRODUCTS
        self._traces = operations >= TRACING_PAYS_FROM
        log.info(
            "products: %s (about %.1e operations in this job; tracing pays from %.0e)",
            "traced" if self._traces else "double backward",
            operations,
            TRACING_PAYS_FROM,
        )

    def linearise(self, objective: Objective, batch: Batch) -> Linearisation:
        """Linearise a batch in the way this job has chosen."""
        program = self._program(objective, batch) if self._traces else None
        if program is None:
            return DoubleBackward(objective, batch)
        return Traced(program, objective, batch)

    def _program(self, objective: Objective, batch: Batch) -> TracedProgram | None:
        inputs, targets = batch.inputs, batch.targets
        # The traced criterion is a batch mean; sums and class weights go the general way.
        if (
            not (isinstance(inputs, Tensor) and isinstance(targets, Tensor))
            or objective.reduction != "mean"
        ):
            return None
        key = (
            id(objective.model),
            objective.vector.names,
            tuple(tensor.shape for tensor in objective.vector.tensors),
            objective.vector.dtype,
            objective.vector.device,
            id(objective.criterion),
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
            program = TracedProgram(
                objective.model,
                objective.vector,
                objective.plan,
                objective.criterion,
                inputs,
                targets,
            )
            few = Batch(inputs[:2], targets[:2], 1.0)
            _compare(Traced(program, objective, few), DoubleBackward(objective, few), objective)
        except TraceError as error:
            log.warning("products: double backward, because tracing was refused: %s", error)
            return None
        log.info("products: traced once for this job (%d operations each)", program.operations)
        return program


def _compare(traced: Linearisation, trusted: Linearisation, objective: Objective) -> None:
    """Refuse a trace whose product is not double backward's."""
    vector = objective.vector
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(vector.size, generator=generator, dtype=torch.float64)
    parts = vector.split(probe.to(vector.device, vector.dtype))
    mine, truth = (vector.flatten(made.apply(parts)).double() for made in (traced, trusted))
    difference = float((mine - truth).norm())
    tolerance = 1e4 * torch.finfo(vector.dtype).eps
    if not difference <= tolerance * float(truth.norm()) + torch.finfo(vector.dtype).tiny:
        raise TraceError(f"its product differs from double backward's by {difference:.2e}")


def _forward_operations(objective: Objective, batch: Batch) -> float:
    """Floating-point operations of one sample's forward pass, convolutions and products only."""
    inputs = batch.inputs
    one = inputs[:1] if isinstance(inputs, Tensor) else inputs
    counter = FlopCounterMode(display=False)
    with untouched(objective.model), exact_arithmetic(), torch.no_grad(), counter:
        call_model(objective.model, one)
    shared = 1 if isinstance(inputs, Tensor) else len(batch.targets)
    return float(counter.get_total_flops()) / shared
