"""λ_max, λ_min and λ_ratio for groups of classes and for every class, in one call.

The class-c Hessian is that of the mean loss over the samples of class c (facts of the paper's
Fig. 4: all samples of the class, no augmentation, eval mode).
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Unpack

import pandas as pd
import torch
from torch import nn

from saddlescope.curvature.keywords import gathered
from saddlescope.curvature.krylov import (
    Ends,
    EndsOptions,
    Estimate,
    Search,
    StopReason,
    Verdict,
    extreme_eigenvalues,
)
from saddlescope.curvature.objective import (
    BatchLoss,
    Criterion,
    Groups,
    Objective,
    SampleBatches,
    Samples,
    Subset,
    WeightlessError,
    as_samples,
    batch_of,
    count_samples,
    refuse_training_mode,
    select_subsets,
    subset_indices,
)
from saddlescope.curvature.operators import (
    MatrixOptions,
    MatrixSpec,
    NamedOperator,
    specified_operator,
)
from saddlescope.curvature.products import Programs, Strategy
from saddlescope.curvature.seeds import derived_seed
from saddlescope.curvature.tables.vanishing import ends_in_double
from saddlescope.errors import DataError, OperatorError
from saddlescope.stages import counted
from saddlescope.stopping import StopRule


@dataclass(frozen=True)
class SpectrumRow:
    """Hold one class or group. Field names are the columns of every table.

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
        operator, parameters, weight_decay: which matrix, see `NamedOperator`.
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
    stop_rule: StopReason
    converged: bool
    verdict: Verdict
    seed: int
    dtype: str
    device: str
    operator: str
    parameters: str
    weight_decay: float
    ends: Ends = field(repr=False, compare=False)

    def columns(self) -> dict[str, Any]:
        """Return the row without the attached result."""
        return {key: value for key, value in asdict(self).items() if key != "ends"}


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
    rows = [count_samples(samples, subset) for subset in subsets]
    programs.expect(_of_one_sample(model, criterion, samples), rows)
    return programs


def _of_one_sample(model: nn.Module, criterion: Criterion, samples: Samples) -> Objective:
    """The loss of the first sample that weighs something."""
    last = len(samples.targets) - 1
    for index in range(last + 1):
        # A batch that every rank reads, not one that they share: all must decide the same way.
        batch = batch_of(samples, torch.tensor([index]))
        try:
            return Objective(model, criterion, [batch])
        except WeightlessError:
            if index == last:
                raise
    raise DataError("no samples: the loss of an empty set has no Hessian")


def counted_rows(samples: Samples, subsets: Sequence[Subset]) -> Iterator[Subset]:
    """Go over the rows of a table, for whoever watches `progress`."""
    sizes = [count_samples(samples, subset) for subset in subsets]
    return counted("spectrum", subsets, sizes=sizes, text=lambda s: f"{s.kind} {s.name}")


class RowOptions(MatrixOptions, EndsOptions, total=False):
    """Name every keyword of a row: `matrix` and `stop` whole, or their fields one by one."""

    matrix: MatrixSpec
    stop: StopRule


def row_options(options: RowOptions) -> tuple[MatrixSpec, StopRule, Search]:
    """Return what matrix, when to stop and where to start.

    Raises:
        TypeError: an unknown keyword.
        UsageError: an option out of range.
    """
    whole = options.get("matrix", MatrixSpec()), options.get("stop", StopRule()), Search()
    single = {name: option for name, option in options.items() if name not in ("matrix", "stop")}
    return gathered(single, *whole)


def subset_operator(
    model: nn.Module,
    criterion: Criterion,
    samples: Samples,
    subset: Subset,
    matrix: MatrixSpec = MatrixSpec(),
    **options: Unpack[MatrixOptions],
) -> NamedOperator:
    """Build the matrix that a row is about.

    Args:
        model: in eval mode.
        criterion: see `Objective`.
        samples: the data set.
        subset: which samples of it.
        matrix: which matrix of their mean loss.
        **options: single fields of `matrix`.
    """
    (matrix,) = gathered(options, matrix)
    batches = SampleBatches(samples, subset_indices(samples, subset), matrix.samples_a_pass)
    # Cut already, and not to be joined again.
    return specified_operator(replace(matrix, batch_size=None), model, criterion, batches)


def measure_operator(
    built: NamedOperator,
    subset: Subset,
    stop: StopRule = StopRule(),
    search: Search = Search(),
    **options: Unpack[EndsOptions],
) -> SpectrumRow:
    """Measure the matrix of a row; in float64 where it vanishes in float32's rounding.

    A class that is fitted so well that float32 rounds its probabilities to 0 and 1 has products of
    rounding alone. Its row is measured in float64, on a copy of the model, and its `dtype` says so.

    Args:
        built: what `subset_operator` returned for `subset`, not used before if its
            `gradient_cost` is to be the row's own.
        subset: names the row.
        stop: see `extreme_eigenvalues`.
        search: see `extreme_eigenvalues`; its seed is the table's, see `measure_subset`.
        **options: single fields of these two.
    """
    stop, search = gathered(options, stop, search)
    seed = search.seed
    search = replace(search, seed=derived_seed(seed, subset.kind, subset.name))
    spent = 0.0
    try:
        ends = extreme_eigenvalues(built.matrix, stop, search)
    except OperatorError as error:
        spent = built.matrix.gradient_cost
        built, ends = ends_in_double(built, error, stop, search)
    matrix, base = built.matrix, built.base
    return SpectrumRow(
        name=subset.name,
        kind=subset.kind,
        n=base.objective.n,
        **_interval("lambda_max", ends.lambda_max),
        lambda_max_residual=ends.lambda_max.residual,
        **_interval("lambda_min", ends.lambda_min),
        lambda_min_residual=ends.lambda_min.residual,
        **_interval("lambda_ratio", ends.lambda_ratio),
        confidence=ends.confidence,
        gradient_norm=float(base.gradient.double().norm()),
        loss=base.loss,
        matvecs=ends.matvecs,
        gradient_cost=round(spent + matrix.gradient_cost, 2),
        noise=ends.noise,
        stop_rule=ends.stop_rule,
        converged=ends.converged,
        verdict=ends.verdict,
        seed=seed,
        dtype=str(matrix.dtype).removeprefix("torch."),
        device=matrix.device.type,
        operator=built.name,
        parameters=built.parameters,
        weight_decay=built.weight_decay,
        ends=ends,
    )


def _interval(name: str, found: Estimate) -> dict[str, Any]:
    """The three columns of an estimate."""
    return {name: found.value, f"{name}_lower": found.lower, f"{name}_upper": found.upper}


def measure_subset(
    model: nn.Module,
    criterion: Criterion,
    samples: Samples,
    subset: Subset,
    **options: Unpack[RowOptions],
) -> SpectrumRow:
    """Measure one class or group.

    Args:
        model: in eval mode.
        criterion: see `Objective`.
        samples: the data set.
        subset: which samples of it.
        **options: `matrix` (a `MatrixSpec`) and `stop` (a `StopRule`), or single fields of them,
            and those of `Search`. The `seed` is the table's: each row derives its own start vector
            from it and its name, so a row's numbers do not depend on which other rows are measured.
    """
    matrix, stop, search = row_options(options)
    built = subset_operator(model, criterion, samples, subset, matrix)
    return measure_operator(built, subset, stop, search)


def iter_spectra(
    model: nn.Module,
    criterion: Criterion,
    dataset: Any,
    *,
    classes: Literal["all", "none"] | Sequence[int] = "all",
    groups: Groups = ("all",),
    **options: Unpack[RowOptions],
) -> Iterator[SpectrumRow]:
    """Yield the rows of `class_spectra` as they finish."""
    matrix, stop, search = row_options(options)
    refuse_training_mode(model)
    samples = as_samples(dataset, groups=groups, whole=isinstance(criterion, BatchLoss))
    subsets = select_subsets(samples, classes=classes, groups=groups)
    if matrix.programs is None:
        programs = plan_programs(model, criterion, samples, subsets, strategy=matrix.strategy)
        matrix = replace(matrix, programs=programs)
    for subset in counted_rows(samples, subsets):
        built = subset_operator(model, criterion, samples, subset, matrix)
        yield measure_operator(built, subset, stop, search)


def class_spectra(
    model: nn.Module,
    criterion: Criterion,
    dataset: Any,
    *,
    classes: Literal["all", "none"] | Sequence[int] = "all",
    groups: Groups = ("all",),
    **options: Unpack[RowOptions],
) -> pd.DataFrame:
    """Measure λ_max, λ_min and λ_ratio with bounds, one row a group or class.

    Args:
        model: in eval mode, its parameters on the device to compute on.
        criterion: see `Objective`.
        dataset: data loader, batches, tensors or items, see `as_samples`.
        classes: class numbers, "all" or "none".
        groups: see `Grouping`: names, a key of the batch, a function of a sample, positions.
        **options: see `measure_subset`.

    Returns:
        A DataFrame with the fields of `SpectrumRow` as columns; `.attrs["notes"]` holds what a
        careful reader should know of each row, as `Ends.notes` does.

    Raises:
        UsageError, DataError, OperatorError: see `select_subsets` and `HessianOperator`.
    """
    found = list(iter_spectra(model, criterion, dataset, classes=classes, groups=groups, **options))
    frame = pd.DataFrame([row.columns() for row in found])
    frame.attrs["notes"] = {f"{row.kind} {row.name}": row.ends.notes for row in found}
    return frame
