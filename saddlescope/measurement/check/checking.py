"""The instrument held to independent tools, on anybody's own small problem.

For each class or group asked for, the intervals of a certified measurement stand beside the
answers of `saddlescope.curvature.reference`, all on the same few samples. Then the things that the
intervals rest on are tested one by one: symmetry, the same product twice, each kind of product
against plain double backward in float64, and the curvature along the eigenvectors by values of the
loss alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from saddlescope.curvature import (
    Ends,
    Groups,
    HessianOperator,
    Programs,
    StopRule,
    Strategy,
    Subset,
    batch_of,
    extreme_eigenvalues,
    map_tensors,
    measured_curvature,
    select_subsets,
    subset_indices,
)
from saddlescope.curvature.reference import (
    PlainHessian,
    Reference,
    dense_reference,
    eigsh_reference,
    pyhessian_reference,
)
from saddlescope.curvature.seeds import check_seed
from saddlescope.errors import UsageError
from saddlescope.measurement.check.agreement import INSTRUMENT, CheckRow, compared
from saddlescope.measurement.target import Target
from saddlescope.stages import counted

ROUNDING = 100.0
"""Units of the dtype's rounding, relative to ‖H‖, that a product may be off without explanation:
sums over samples and layers, in another order."""

_REFERENCES: dict[str, Callable[..., Reference]] = {
    "dense": dense_reference,
    "scipy eigsh": eigsh_reference,
    "pyhessian": pyhessian_reference,
}
_STRATEGIES: tuple[Strategy, ...] = ("double-backward", "traced")
_TESTS = 1 + len(_REFERENCES) + 2 + 2 + len(_STRATEGIES)
"""Rows a class or group: the instrument, the references, both curvatures, symmetry and repetition,
and each kind of product."""


def smallest_class(target: Target) -> int:
    """Find the class with the fewest samples, of several the first."""
    present, counts = target.samples.targets.cpu().unique(return_counts=True)
    return int(present[counts.argmin()])


def check_target(
    target: Target,
    *,
    classes: Literal["all", "none"] | Sequence[int],
    groups: Groups = (),
    samples: int = 50,
    stop: StopRule = StopRule(),
    seed: int = 0,
) -> list[CheckRow]:
    """Compare the instrument with every reference, and test what it rests on.

    Args:
        target: what is measured.
        classes: see `select_subsets`.
        groups: see `select_subsets`.
        samples: of each row at most so many take part, its first ones.
        stop: of the instrument; always certified.
        seed: of all start vectors.

    Raises:
        UsageError, DataError: see `select_subsets`; a seed out of range; a model that cannot be
            copied to float64.
    """
    if samples < 1:
        raise UsageError(f"samples = {samples}: expected at least 1")
    check_seed(seed)  # before the work: the first tool that draws comes late
    subsets = select_subsets(target.samples, classes=classes, groups=groups)
    rows: list[CheckRow] = []
    for subset in counted("check", subsets, text=lambda s: f"{s.kind} {s.name}"):
        problem = _Comparison(target, subset, samples, stop, seed)
        tests = counted("tool", problem.rows(), total=_TESTS, text=lambda row: f"{row.tool} done")
        rows.extend(tests)
    return rows


class _Comparison:
    """One class or group: its few samples, and the measurement that is checked."""

    def __init__(
        self, target: Target, subset: Subset, samples: int, stop: StopRule, seed: int
    ) -> None:
        indices = subset_indices(target.samples, subset)[:samples]
        device = next(target.model.parameters()).device
        self.batch = map_tensors(
            batch_of(target.samples, indices), lambda tensor: tensor.to(device)
        )
        self.n = len(indices)
        self.target, self.subset, self.seed = target, subset, seed
        self.stop = replace(stop, certify=True)

    def rows(self) -> Iterator[CheckRow]:
        # Refuses what has no float64 copy, before anything is measured.
        PlainHessian(self.target.model, self.target.criterion, self.batch)
        began = time.perf_counter()
        operator = self._operator("double-backward")
        ends = extreme_eigenvalues(operator, self.stop, seed=self.seed, eigenvectors=True)
        yield self._instrument(ends, time.perf_counter() - began)
        for tool, ask in _REFERENCES.items():
            try:
                options = {} if tool == "dense" else {"seed": self.seed}
                found = ask(self.target.model, self.target.criterion, self.batch, **options)
            except UsageError as error:
                yield replace(self._row(tool), note=f"not used: {error}")
            else:
                yield self._compared(found, ends)
        yield from self._curvatures(operator, ends)
        yield from self._products(operator, ends)

    def _operator(self, strategy: Strategy, programs: Programs | None = None) -> HessianOperator:
        return HessianOperator(
            self.target.model,
            self.target.criterion,
            [self.batch],
            programs=programs or Programs(strategy),
        )

    def _row(self, tool: str) -> CheckRow:
        """Begin a row."""
        return CheckRow(self.subset.kind, self.subset.name, n=self.n, tool=tool)

    def _instrument(self, ends: Ends, seconds: float) -> CheckRow:
        largest, smallest = ends.lambda_max, ends.lambda_min
        return replace(
            self._row(INSTRUMENT),
            lambda_max=largest.value,
            lambda_max_lower=largest.lower,
            lambda_max_upper=largest.upper,
            lambda_min=smallest.value,
            lambda_min_lower=smallest.lower,
            lambda_min_upper=smallest.upper,
            products=ends.matvecs,
            seconds=seconds,
            converged=ends.converged,
            note="" if ends.converged else "not converged: the intervals are wider than asked for",
        )

    def _compared(self, found: Reference, ends: Ends) -> CheckRow:
        return replace(self._row(found.tool), **compared(found, ends))

    def _curvatures(self, operator: HessianOperator, ends: Ends) -> Iterator[CheckRow]:
        """λ along v_max and v_min from losses alone."""
        assert ends.eigenvectors is not None
        for name, vector in zip(("lambda_max", "lambda_min"), ends.eigenvectors, strict=True):
            began = time.perf_counter()
            found = measured_curvature(operator.objective, vector)
            # Its error is an estimate and no bound.
            yield self._compared(
                Reference(
                    tool="second difference",
                    lambda_max=found.value if name == "lambda_max" else None,
                    lambda_min=found.value if name == "lambda_min" else None,
                    error=3.0 * found.error,
                    products=0,
                    seconds=time.perf_counter() - began,
                    note=f"along v_{name[-3:]}, from {found.evaluations} losses",
                ),
                ends,
            )

    def _products(self, operator: HessianOperator, ends: Ends) -> Iterator[CheckRow]:
        """Symmetry, repetition, and each kind of product against float64."""
        assert ends.eigenvectors is not None
        scale = max(abs(ends.lambda_max.value), abs(ends.lambda_min.value))
        rounding = ROUNDING * torch.finfo(operator.dtype).eps * scale
        # Mostly in the plane of the eigenvectors: two random vectors would see next to nothing.
        u = self._probe(ends.eigenvectors[0] + ends.eigenvectors[1], 1)
        v = self._probe(ends.eigenvectors[0] - ends.eigenvectors[1], 2)

        began = time.perf_counter()
        image, other = operator.matvec(u), operator.matvec(v)
        gap = abs(float(v.double() @ image.double() - u.double() @ other.double()))
        yield self._tested("symmetry", gap, rounding, began, 2, "⟨v,Hu⟩ − ⟨u,Hv⟩")
        began = time.perf_counter()
        change = float((operator.matvec(u) - image).double().norm())
        yield self._tested("same product twice", change, rounding, began, 1)

        exact = PlainHessian(self.target.model, self.target.criterion, self.batch)(u)
        for strategy in _STRATEGIES:
            began = time.perf_counter()
            programs = Programs(strategy)
            kind = self._operator(strategy, programs)
            product = kind.matvec(u)
            error = float((product.double() - exact).norm())
            # What the instrument itself says of this product's rounding, and widens its
            # intervals by, must cover what is really there.
            own = kind.product_error(u, product) or 0.0
            note = f"against float64; the instrument measures {own:.2g}"
            if strategy == "traced" and not programs.traced:
                note = "tracing was refused, so products fall back to double backward"
            yield self._tested(f"{strategy} product", error, 2.0 * own + rounding, began, 1, note)

    def _probe(self, vector: Tensor, number: int) -> Tensor:
        """A unit vector, halfway between this one and a random one."""
        generator = torch.Generator().manual_seed(self.seed + number)
        noise = torch.randn(len(vector), generator=generator, dtype=torch.float64)
        mixed = vector.double() / vector.double().norm() + (noise / noise.norm()).to(vector.device)
        return (mixed / mixed.norm()).to(vector.dtype)

    def _tested(
        self,
        tool: str,
        difference: float,
        allowed: float,
        began: float,
        products: int,
        note: str = "",
    ) -> CheckRow:
        return replace(
            self._row(tool),
            difference=difference,
            allowed=allowed,
            agrees=difference <= allowed,
            products=products,
            seconds=time.perf_counter() - began,
            note=note,
        )
