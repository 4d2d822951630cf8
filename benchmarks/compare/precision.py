"""What fewer digits do to both ends: TF32 on a GPU that has it, and bfloat16 anywhere.

The instrument uses neither: TF32 is switched off within a product, and a bfloat16 model is refused.
Here the same Lanczos process runs on plain double backward in either, to show why: the ends that
come out, and how far a product along a random direction is off, as a share of its length.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.compare.cases import Cases
from benchmarks.compare.ends import truth_of, truth_unit
from benchmarks.compare.problems import Problem
from benchmarks.compare.record import Record, Unit
from benchmarks.compare.tools.instrument import Rehearsed
from saddlescope.curvature import HessianOperator, extreme_eigenvalues, random_start, tf32
from saddlescope.errors import SaddlescopeError

PRECISIONS = ("float32", "tf32", "bfloat16")


def precision_units(cases: Cases, name: str) -> Iterator[Unit]:
    """The truth of a case, its ends in every precision there is, and the refusal."""
    yield truth_unit(cases, name)
    for precision in PRECISIONS:
        if precision == "tf32" and cases.device.type != "cuda":
            continue

        def measure(record: Record, precision: str = precision) -> dict[str, Any]:
            return _ends(cases.problem(name), precision, record, name)

        yield Unit(f"precision/{name}/{precision}", measure)
    yield Unit(f"precision/{name}/refusal", lambda _: {"message": refusal(cases.problem(name))})


def refusal(problem: Problem) -> str:
    """What the instrument says to a bfloat16 copy of the model."""
    model = copy.deepcopy(problem.model).bfloat16()
    try:
        HessianOperator(model, problem.criterion, problem.batches())
    except SaddlescopeError as error:
        return str(error)
    raise AssertionError("a bfloat16 model was not refused")


def _ends(problem: Problem, precision: str, record: Record, name: str) -> dict[str, Any]:
    truth = truth_of(record, name)
    product = plain_product(problem, precision)
    operator = Rehearsed(problem.size, problem.dtype, problem.device, product)
    exact = problem.double()
    reference = HessianOperator(exact.model, exact.criterion, exact.batches())
    probe = random_start(problem.size, seed=0).to(problem.device)
    expected = reference.matvec(probe)
    off = torch.linalg.vector_norm(product(probe.to(problem.dtype)).double() - expected)
    share = float(off / torch.linalg.vector_norm(expected))
    try:
        ends = extreme_eigenvalues(operator, noise=0.0, max_matvecs=60, seed=1)
    except SaddlescopeError as error:
        return {"reason": str(error), "product_error": share}
    top, bottom = ends.lambda_max.value, ends.lambda_min.value
    return {
        "lambda_max": top,
        "lambda_min": bottom,
        "max_error": abs(top / truth.lambda_max - 1.0),
        "min_error": abs(bottom / truth.lambda_min - 1.0),
        "product_error": share,
        "products": ends.matvecs,
        "converged": ends.converged,
    }


def plain_product(problem: Problem, precision: str) -> Any:
    """The map v ↦ H·v by double backward from scratch in this precision; v and H·v in float32."""
    model = copy.deepcopy(problem.model)
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    model.to(kind)
    parameters = list(model.parameters())

    def product(vector: Tensor) -> Tensor:
        parts = _split(vector.to(kind), parameters)
        total = torch.zeros_like(vector)
        for inputs, targets in problem.batches():
            moved = inputs.to(kind) if inputs.is_floating_point() else inputs
            with tf32(allowed=precision == "tf32"):
                loss = problem.criterion(model(moved).float(), targets)
                gradient = torch.autograd.grad(loss, parameters, create_graph=True)
                found = torch.autograd.grad(gradient, parameters, parts)
            flat = torch.cat([part.reshape(-1) for part in found]).to(vector.dtype)
            total += flat * (len(targets) / len(problem.targets))
        return total

    return product


def _split(vector: Tensor, parameters: list[Any]) -> list[Tensor]:
    sizes = [parameter.numel() for parameter in parameters]
    return [
        part.view_as(parameter)
        for part, parameter in zip(vector.split(sizes), parameters, strict=True)
    ]
