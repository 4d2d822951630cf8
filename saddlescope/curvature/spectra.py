"""λ_max, λ_min and λ_ratio for groups of classes and for every class, in one call.

The class-c Hessian is that of the mean loss over the samples of class c (facts of the paper's
Fig. 4: all samples of the class, no augmentation, eval mode).
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from saddlescope.curvature.extreme import Ends, StopRule, Verdict, extreme_eigenvalues
from saddlescope.curvature.objective import Criterion, Objective
from saddlescope.curvature.operators import HessianOperator
from saddlescope.curvature.samples import SampleBatches, Samples, as_samples
from saddlescope.curvature.state import refuse_training_mode
from saddlescope.curvature.strategy import Programs, Strategy
from saddlescope.errors import DataError, UsageError


@dataclass(frozen=True)
class SpectrumRow:
    """One class or group. Field names are the columns of every table.

    Attributes:
        name: "all", "head", … or the class number as text.
        kind: "group" or "class".
        n: number of samples.
        lambda_max, lambda_min, lambda_ratio: with `_lower`, `_upper` at joint `confidence`, and
            `_residual` (the norm of the eigenpair's residual).
        gradient_norm: ‖∇L_c(w)‖: a saddle of L_c needs this to be near 0.
        loss: L_c(w).
        matvecs: Hessian-vector products used by Lanczos.
        gradient_cost: everything spent, in gradients of the same samples, by operation count.
        noise: absolute rounding error of a product; the intervals contain it.
        ends: the full result, eigenvectors included; not a column.
    """

    name: str
    kind: Literal["group", "class"]
    n: int
    lambda_max: float
    lambda_max_lower: float
    lambda_max_upper: float
    lambda_max_residual: float
    lambda_min: float
    lambda_min_lower: float
    lambda_min_upper: float
    lambda_min_residual: float
    lambda_ratio: float
    lambda_ratio_lower: float
    lambda_ratio_upper: float
    confidence: float
    gradient_norm: float
    loss: float
    matvecs: int
    gradient_cost: float
    noise: float
    stop_rule: StopRule
    converged: bool
    verdict: Verdict
    seed: int
    dtype: str
    device: str
    ends: Ends = field(repr=False, compare=False)

    def columns(self) -> dict[str, Any]:
        """The row without the attached result."""
        return {key: value for key, value in asdict(self).items() if key != "ends"}


@dataclass(frozen=True)
class Subset:
    """Which samples a row is about: all of the given classes.

    Attributes:
        name: of the row.
        kind: "group" or "class".
        classes: class numbers; None takes every sample.
    """

    name: str
    kind: Literal["group", "class"]
    classes: tuple[int, ...] | None


def select_subsets(
    samples: Samples,
    *,
    classes: Literal["all", "none"] | Sequence[int] = "all",
    groups: Sequence[str] = ("all",),
) -> list[Subset]:
    """Name the rows of a table: groups first, then classes.

    Args:
        samples: the data set.
        classes: class numbers, "all" (every class that has samples) or "none".
        groups: "all", or names the data set's `groups` define.

    Raises:
        UsageError: a group the data set does not define.
        DataError: a class or group asked for that has no samples.
    """
    present = sorted(set(samples.targets.tolist()))
    known = dict(getattr(samples, "groups", {}))
    chosen: list[Subset] = []
    for group in groups:
        if group == "all":
            chosen.append(Subset("all", "group", None))
        elif group not in known:
            names = ", ".join(["all", *(name for name in known if name != "all")])
            raise UsageError(f"group {group!r} is not defined by this data set (it has: {names})")
        elif not set(known[group]) & set(present):
            raise DataError(f"group {group!r} has no samples in this split: leave it out")
        else:
            chosen.append(Subset(group, "group", tuple(int(c) for c in known[group])))
    if isinstance(classes, str):
        numbers = present if classes == "all" else []
    else:
        numbers = [int(number) for number in classes]
    for number in numbers:
        if number not in present:
            raise DataError(
                f"class {number} has no samples in this split "
                f"(classes with samples: {_ranges(present)})"
            )
        chosen.append(Subset(str(number), "class", (number,)))
    if not chosen:
        raise UsageError("nothing to measure: no class and no group was asked for")
    return chosen


def count_samples(samples: Samples, subset: Subset) -> int:
    """How many samples a row is about."""
    return len(_indices(samples, subset))


def plan_programs(
    model: nn.Module,
    criterion: Criterion,
    samples: Samples,
    subsets: Sequence[Subset],
    *,
    strategy: Strategy = "auto",
) -> Programs:
    """Choose the kind of product for a whole table, from its operation count."""
    refuse_training_mode(model)
    programs = Programs(strategy)
    first = SampleBatches(samples, torch.zeros(1, dtype=torch.int64), 1)
    total = sum(count_samples(samples, subset) for subset in subsets)
    programs.expect(Objective(model, criterion, first), total)
    return programs


def measure_subset(
    model: nn.Module,
    criterion: Criterion,
    samples: Samples,
    subset: Subset,
    *,
    seed: int = 0,
    batch_size: int = 256,
    memory_budget: int | None = None,
    programs: Programs | None = None,
    **options: Any,
) -> SpectrumRow:
    """Measure one class or group.

    Args:
        model: in eval mode.
        criterion: see `Objective`.
        samples: the data set.
        subset: which samples of it.
        seed: of the table; each row derives its own start vector from it and its name, so a
            row's numbers do not depend on which other rows are measured.
        batch_size: samples per forward pass; changes nothing but memory and speed.
        memory_budget: see `HessianOperator`.
        programs: see `HessianOperator`.
        **options: of `extreme_eigenvalues`.
    """
    indices = _indices(samples, subset)
    operator = HessianOperator(
        model,
        criterion,
        SampleBatches(samples, indices, batch_size),
        memory_budget=memory_budget,
        programs=programs,
    )
    start = zlib.crc32(f"{seed}/{subset.kind}/{subset.name}".encode())
    ends = extreme_eigenvalues(operator, seed=start, **options)
    largest, smallest, both = ends.lambda_max, ends.lambda_min, ends.lambda_ratio
    return SpectrumRow(
        name=subset.name,
        kind=subset.kind,
        n=len(indices),
        lambda_max=largest.value,
        lambda_max_lower=largest.lower,
        lambda_max_upper=largest.upper,
        lambda_max_residual=largest.residual,
        lambda_min=smallest.value,
        lambda_min_lower=smallest.lower,
        lambda_min_upper=smallest.upper,
        lambda_min_residual=smallest.residual,
        lambda_ratio=both.value,
        lambda_ratio_lower=both.lower,
        lambda_ratio_upper=both.upper,
        confidence=ends.confidence,
        gradient_norm=float(operator.gradient.double().norm()),
        loss=operator.loss,
        matvecs=ends.matvecs,
        gradient_cost=round(operator.gradient_cost, 2),
        noise=ends.noise,
        stop_rule=ends.stop_rule,
        converged=ends.converged,
        verdict=ends.verdict,
        seed=seed,
        dtype=str(operator.dtype).removeprefix("torch."),
        device=operator.device.type,
        ends=ends,
    )


def iter_spectra(
    model: nn.Module,
    criterion: Criterion,
    dataset: Any,
    *,
    classes: Literal["all", "none"] | Sequence[int] = "all",
    groups: Sequence[str] = ("all",),
    strategy: Strategy = "auto",
    **options: Any,
) -> Iterator[SpectrumRow]:
    """Yield the rows of `class_spectra` as they finish."""
    refuse_training_mode(model)
    samples = as_samples(dataset)
    subsets = select_subsets(samples, classes=classes, groups=groups)
    programs = plan_programs(model, criterion, samples, subsets, strategy=strategy)
    for subset in subsets:
        yield measure_subset(model, criterion, samples, subset, programs=programs, **options)


def class_spectra(
    model: nn.Module,
    criterion: Criterion,
    dataset: Any,
    *,
    classes: Literal["all", "none"] | Sequence[int] = "all",
    groups: Sequence[str] = ("all",),
    strategy: Strategy = "auto",
    **options: Any,
) -> pd.DataFrame:
    """λ_max, λ_min and λ_ratio with bounds, one row a group or class.

    Args:
        model: in eval mode, its parameters on the device to compute on.
        criterion: see `Objective`.
        dataset: see `as_samples`.
        classes: class numbers, "all" or "none".
        groups: "all", or names that `dataset.groups` maps to class numbers.
        strategy: "auto", "traced" or "double-backward"; see `Programs`.
        **options: `seed`, `batch_size`, `memory_budget`, and those of `extreme_eigenvalues`.

    Returns:
        A DataFrame with the fields of `SpectrumRow` as columns.

    Raises:
        UsageError, DataError, OperatorError: see `select_subsets` and `HessianOperator`.
    """
    rows = iter_spectra(
        model, criterion, dataset, classes=classes, groups=groups, strategy=strategy, **options
    )
    return pd.DataFrame([row.columns() for row in rows])


def _indices(samples: Samples, subset: Subset) -> torch.Tensor:
    """Positions of a subset's samples, int64, on the CPU."""
    if subset.classes is None:
        return torch.arange(len(samples.targets))
    wanted = torch.tensor(subset.classes)
    return torch.isin(samples.targets.cpu(), wanted).nonzero().squeeze(1)


def _ranges(numbers: Sequence[int]) -> str:
    """[0, 1, 2, 5] as "0-2, 5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
