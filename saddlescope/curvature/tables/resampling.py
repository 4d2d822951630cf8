"""How much λ_max, λ_min and λ_ratio depend on which samples a class happens to have.

Percentile bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, §13): draw the
class's samples with replacement, measure again, take quantiles. It answers another question than
the numerical interval of `extreme_eigenvalues`, which is about *this* sample's Hessian and the
iteration; the columns are named `*_bootstrap_*` so that the two are never mixed.

A resample's Hessian H* has mean H. λ_max is convex in the matrix and λ_min concave, so by
Jensen's inequality resampling pushes both outwards: E λ_max(H*) >= λ_max(H) and E λ_min(H*) <=
λ_min(H). In a class of few samples the interval may therefore leave out the measured value;
`*_bootstrap_bias` shows the push.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from saddlescope.curvature.krylov import Ends, extreme_eigenvalues
from saddlescope.curvature.objective import (
    BatchLoss,
    Criterion,
    SampleBatches,
    Samples,
    Subset,
    as_samples,
    subset_indices,
)
from saddlescope.curvature.operators import specified_operator
from saddlescope.curvature.products import Programs
from saddlescope.curvature.seeds import derived_seed
from saddlescope.curvature.tables.spectra import (
    RowOptions,
    SpectrumRow,
    measure_operator,
    row_options,
    subset_operator,
)
from saddlescope.errors import UsageError
from saddlescope.stages import counted


class NothingToResample(UsageError):  # noqa: N818 - of the samples, not a mistake of the caller's
    """Say that no class has two samples, so that every resample would be the same."""


@dataclass(frozen=True)
class BootstrapRow:
    """Hold one class or group. Field names are columns, joined to a table of `SpectrumRow` by name.

    Attributes:
        name, kind, n: as in `SpectrumRow`.
        lambda_max, lambda_min, lambda_ratio: measured on the samples themselves, with
            `_bootstrap_lower` and `_bootstrap_upper` at `bootstrap_level`. A resample whose
            ratio is unresolved counts as infinite.
        lambda_max_bootstrap_bias, lambda_min_bootstrap_bias: mean over resamples minus the
            measured value.
        bootstrap_level: nominal coverage of each interval by itself.
        bootstrap_resamples: how many.
        bootstrap_unconverged: resamples whose iteration ran out of products; they are counted
            with the values reached.
        bootstrap_matvecs: products used, those of the measured value left out.
        bootstrap_gradient_cost: everything spent on the resamples, in gradients of the samples.
        bootstrap_seed: of the draws.
        draws: λ_max, λ_min, λ_ratio of each resample, shape (resamples, 3); not a column.
        ends: the measured value's full result; not a column.
    """

    name: str
    kind: Literal["group", "class"]
    n: int
    lambda_max: float
    lambda_max_bootstrap_lower: float
    lambda_max_bootstrap_upper: float
    lambda_max_bootstrap_bias: float
    lambda_min: float
    lambda_min_bootstrap_lower: float
    lambda_min_bootstrap_upper: float
    lambda_min_bootstrap_bias: float
    lambda_ratio: float
    lambda_ratio_bootstrap_lower: float
    lambda_ratio_bootstrap_upper: float
    bootstrap_level: float
    bootstrap_resamples: int
    bootstrap_unconverged: int
    bootstrap_matvecs: int
    bootstrap_gradient_cost: float
    bootstrap_seed: int
    draws: np.ndarray = field(repr=False, compare=False)
    ends: Ends = field(repr=False, compare=False)

    def columns(self) -> dict[str, Any]:
        """Return the row without the attached arrays."""
        names = [column.name for column in fields(self)]
        return {name: getattr(self, name) for name in names if name not in ("draws", "ends")}


def bootstrap_spectra(
    model: nn.Module,
    criterion: Criterion,
    samples: Any,
    subset: Subset,
    *,
    resamples: int = 20,
    level: float = 0.9,
    measured: SpectrumRow | None = None,
    **options: Unpack[RowOptions],
) -> BootstrapRow:
    """Resample a class or group: percentile intervals of λ_max, λ_min and λ_ratio.

    In a group each class keeps its count, since the counts of a long-tailed set are design and
    not chance: samples are drawn within their class.

    Args:
        model: in eval mode.
        criterion: see `Objective`.
        samples: the data set, see `as_samples`.
        subset: which samples of it, see `select_subsets`.
        resamples: how many; the first ones are the same whatever the number.
        level: nominal coverage; needs resamples >= 2/(1 − level) − 1.
        measured: the row of the samples themselves, measured with the same options; None measures
            it.
        **options: see `measure_subset`; the seed is that of the draws too. The noise is measured
            once, on the samples themselves, and carried over to the resamples.

    Raises:
        UsageError: level out of range, or too few resamples for it.
        NothingToResample: no class in the subset has two samples.
    """
    matrix, stop, search = row_options(options)
    rank = interval_rank(resamples, level)
    data = as_samples(samples, whole=isinstance(criterion, BatchLoss))
    members = _members(data, subset)
    if all(len(indices) < 2 for indices in members):
        total = sum(len(indices) for indices in members)
        raise NothingToResample(
            f"{subset.kind} {subset.name!r} has {total} sample{'s' * (total != 1)}, at most "
            "one a class: drawing with replacement gives the same set each time, so a bootstrap "
            "says nothing of sampling error"
        )
    if matrix.programs is None:
        # One job: its derivatives are checked once, not for every resample again.
        matrix = replace(matrix, programs=Programs("double-backward"))
    if (row := measured) is None:
        built = subset_operator(model, criterion, data, subset, matrix)
        row = measure_operator(built, subset, stop, search)
    search, seed = replace(search, noise=row.noise, eigenvectors=False), search.seed
    generator = torch.Generator().manual_seed(
        derived_seed(seed, "bootstrap", subset.kind, subset.name)
    )
    draws, unconverged, matvecs, cost = np.empty((resamples, 3)), 0, 0, 0.0
    for index in counted("bootstrap", range(resamples), text=lambda i: f"resample {i + 1}"):
        chosen = torch.cat([_draw(indices, generator) for indices in members])
        batches = SampleBatches(data, chosen, matrix.samples_a_pass)
        resample = specified_operator(replace(matrix, batch_size=None), model, criterion, batches)
        start = derived_seed(seed, "bootstrap", index, subset.kind, subset.name)
        ends = extreme_eigenvalues(resample.matrix, stop, replace(search, seed=start))
        found = (ends.lambda_max.value, ends.lambda_min.value, ends.lambda_ratio.value)
        draws[index] = np.nan_to_num(found, nan=math.inf, posinf=math.inf)
        unconverged += not ends.converged
        matvecs += ends.matvecs
        cost += resample.matrix.gradient_cost
    lower, upper = np.sort(draws, axis=0)[[rank - 1, resamples - rank]]
    return BootstrapRow(
        name=subset.name,
        kind=subset.kind,
        n=row.n,
        **{
            f"{name}_bootstrap_{side}": float(bound[column])
            for column, name in enumerate(("lambda_max", "lambda_min", "lambda_ratio"))
            for side, bound in (("lower", lower), ("upper", upper))
        },
        lambda_max=row.lambda_max,
        lambda_max_bootstrap_bias=float(draws[:, 0].mean()) - row.lambda_max,
        lambda_min=row.lambda_min,
        lambda_min_bootstrap_bias=float(draws[:, 1].mean()) - row.lambda_min,
        lambda_ratio=row.lambda_ratio,
        bootstrap_level=level,
        bootstrap_resamples=resamples,
        bootstrap_unconverged=unconverged,
        bootstrap_matvecs=matvecs,
        bootstrap_gradient_cost=round(cost, 2),
        bootstrap_seed=seed,
        draws=draws,
        ends=row.ends,
    )


def interval_rank(resamples: int, level: float) -> int:
    """Return which order statistic from either side bounds the interval: ⌊(B+1)·(1−level)/2⌋.

    Raises:
        UsageError: level out of range, or too few resamples for it.
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"level = {level}: expected a probability between 0 and 1")
    rank = math.floor((resamples + 1) * (1.0 - level) / 2.0 + 1e-9)
    if rank < 1:
        raise UsageError(
            f"resamples = {resamples} cannot support level = {level}: take at least "
            f"{math.ceil(2.0 / (1.0 - level) - 1.0 - 1e-9)}"
        )
    return rank


def _members(samples: Samples, subset: Subset) -> list[Tensor]:
    """The indices of the subset's samples, one tensor a class; one where there are no classes."""
    indices = subset_indices(samples, subset)
    targets = samples.targets.cpu()
    if targets.dim() != 1 or targets.is_floating_point():
        return [indices]
    classes = torch.unique(targets[indices]).tolist() if subset.classes is None else subset.classes
    found = [indices[targets[indices] == number] for number in classes]
    return [part for part in found if len(part)]


def _draw(indices: Tensor, generator: torch.Generator) -> Tensor:
    """As many of the indices, with replacement, sorted so that equal draws sum alike."""
    picks = torch.randint(0, len(indices), (len(indices),), generator=generator)
    return indices[picks.sort().values]
