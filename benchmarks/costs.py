"""What measuring one row costs, in gradients of the same samples; shared by the studies here.

One gradient is an eager forward and backward of the same batches (contiguous, unfolded), timed
before and after the row. Set-up of the row and the measurement of its noise are included; tracing,
paid once a job, is not.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saddlescope.curvature import Ends, HessianOperator, Programs, extreme_eigenvalues
from saddlescope.measurement import Target


@dataclass(frozen=True)
class Cost:
    """Seconds of one cold row by part, and what came out.

    Attributes:
        gradient: one eager gradient of the row's samples.
        setup: building the operator.
        products: each product, inside the Lanczos loop.
        beside: the loop's time that is not spent in products.
        noise: measuring the rounding error.
        total: all of it.
        ends: the result.
    """

    gradient: float
    setup: float
    products: list[float]
    beside: float
    noise: float
    total: float
    ends: Ends

    def row(self) -> dict[str, Any]:
        """Parts in gradients."""
        middle = statistics.median(self.products)
        return {
            "products": self.ends.matvecs,
            "gradients": self.total / self.gradient,
            "setup": self.setup / self.gradient,
            "product": middle / self.gradient,
            "noise_product": self.noise / self.gradient,
            "beside_products": self.beside / (self.beside + sum(self.products)),
            "over_products_alone": self.total / (len(self.products) * middle),
            "gradient_seconds": self.gradient,
            "seconds": self.total,
            "lambda_max": self.ends.lambda_max.value,
            "lambda_min": self.ends.lambda_min.value,
            "lambda_min_lower": self.ends.lambda_min.lower,
            "lambda_min_upper": self.ends.lambda_min.upper,
            "noise": self.ends.noise,
            "stop_rule": self.ends.stop_rule,
        }


def gradient_seconds(
    target: Target, batches: Iterable[tuple[Tensor, Tensor]], clock: Callable[[], float]
) -> float:
    """Seconds of one eager forward and backward of all batches."""
    parameters = list(target.model.parameters())
    seconds = 0.0
    for inputs, classes in batches:
        began = clock()
        torch.autograd.grad(target.criterion(target.model(inputs), classes), parameters)
        seconds += clock() - began
    return seconds


def measure_cost(
    target: Target,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    programs: Programs | None,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    **options: Any,
) -> Cost:
    """Measure one row cold.

    Args:
        target: network and criterion.
        batches: the row's samples, (inputs, classes).
        programs: shared by the rows of a job; None differentiates twice.
        repeats: gradients timed before and after.
        clock: `time.process_time` where other work runs on the machine and one thread computes.
        options: of `extreme_eigenvalues`.
    """
    gradients = [gradient_seconds(target, batches, clock) for _ in range(repeats)]
    began = clock()
    operator = HessianOperator(target.model, target.criterion, batches, programs=programs)
    built = clock()
    products: list[float] = []
    real, real_error = operator.matvec, operator.product_error
    marks = {}

    def matvec(vector: Tensor) -> Tensor:
        start = clock()
        result = real(vector)
        products.append(clock() - start)
        return result

    def product_error(vector: Tensor, product: Tensor) -> float | None:
        marks["iterated"] = clock()
        return real_error(vector, product)

    operator.matvec, operator.product_error = matvec, product_error  # type: ignore[method-assign]
    ends = extreme_eigenvalues(operator, **options)
    done = clock()
    gradients += [gradient_seconds(target, batches, clock) for _ in range(repeats)]
    iterated = marks.get("iterated", done)
    return Cost(
        gradient=statistics.median(gradients),
        setup=built - began,
        products=products,
        beside=iterated - built - sum(products),
        noise=done - iterated,
        total=done - began,
        ends=ends,
    )
