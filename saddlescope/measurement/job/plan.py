"""The cost of a spectrum job before it is run: products, gradients and memory of every row."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from saddlescope.curvature import MemoryPlan, count_samples, measure_footprint
from saddlescope.measurement.job.spectrum import SpectrumJob

_FIXED_GRADIENTS = 8
"""Building the operator, verifying it, and the float64 check, in gradients."""


@dataclass(frozen=True)
class PlannedRow:
    """One row of a job.

    Attributes:
        kind: "group" or "class".
        name: of the row.
        n: number of samples.
        products: about how many it takes.
        gradients: about what it costs, in gradients of its samples.
        memory: predicted bytes.
    """

    kind: str
    name: str
    n: int
    products: int
    gradients: int
    memory: MemoryPlan

    def columns(self) -> dict[str, Any]:
        """Return the row as it is printed, memory in MiB."""
        memory = self.memory
        return {
            "kind": self.kind,
            "name": self.name,
            "n": self.n,
            "products_about": self.products,
            "gradients_about": self.gradients,
            "peak_mib": _mib(memory.peak),
            "basis_mib": _mib(memory.basis),
            "retained_mib": _mib(memory.retained),
            "work_mib": _mib(memory.work),
            "reference_mib": _mib(memory.reference),
        }


def plan_rows(job: SpectrumJob) -> Iterator[PlannedRow]:
    """Predict every row of a job; measures the memory of a few samples once."""
    target, settings = job.target, job.settings
    footprint = measure_footprint(
        target.model, target.criterion, target.samples, programs=job.programs()
    )
    products = settings.typical_products
    for subset in job.subsets:
        n = count_samples(target.samples, subset)
        yield PlannedRow(
            kind=subset.kind,
            name=subset.name,
            n=n,
            products=products,
            gradients=2 * products + _FIXED_GRADIENTS,
            memory=footprint.plan(
                n,
                batch_size=settings.matrix.samples_a_pass,
                max_matvecs=settings.stop.max_matvecs,
                products=products,
            ),
        )


def _mib(nbytes: int) -> float:
    return round(nbytes / 2**20, 1)
