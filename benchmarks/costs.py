"""What measuring one row costs, in gradients of the same samples; shared by the studies here.

One gradient is an eager forward and backward of the same batches (contiguous, unfolded), timed
before and after the row. Set-up of the row and the measurement of its noise are included; tracing,
paid once a job, is not.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saddlescope.curvature import Ends, HessianOperator, Programs, extreme_eigenvalues
from saddlescope.curvature.objective.state import tf32
from saddlescope.measurement import Target
from saddlescope.models import build_model


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


class _Timed:
    """An operator whose products are timed, and the moment its noise is asked for."""

    def __init__(self, operator: HessianOperator, clock: Callable[[], float]) -> None:
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self.verify = operator.verify
        self.seconds: list[float] = []
        self.iterated: float | None = None
        self._operator, self._clock = operator, clock

    def matvec(self, vector: Tensor) -> Tensor:
        began = self._clock()
        result = self._operator.matvec(vector)
        self.seconds.append(self._clock() - began)
        return result

    def product_error(self, vector: Tensor, product: Tensor) -> float | None:
        self.iterated = self._clock()
        return self._operator.product_error(vector, product)


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


def untrained(network: str, sizes: Iterable[int]) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """An untrained network with random images and targets of CIFAR-100's shapes, of each size."""
    generator = torch.Generator().manual_seed(0)
    model = build_model(network, num_classes=100, in_channels=3, seed=0).eval()
    for size in sizes:
        images = torch.randn(size, 3, 32, 32, generator=generator)
        yield model, images, torch.randint(100, (size,), generator=generator)


@tf32(allowed=False)
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
    timed = _Timed(operator, clock)
    ends = extreme_eigenvalues(timed, **options)
    done = clock()
    gradients += [gradient_seconds(target, batches, clock) for _ in range(repeats)]
    iterated = done if timed.iterated is None else timed.iterated
    return Cost(
        gradient=statistics.median(gradients),
        setup=built - began,
        products=timed.seconds,
        beside=iterated - built - sum(timed.seconds),
        noise=done - iterated,
        total=done - began,
        ends=ends,
    )
