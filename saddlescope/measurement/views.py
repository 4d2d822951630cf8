"""The views of a row: more of its matrix than two numbers, as records for the files.

Each view is a function from what the row has at hand (`RowWork`) to its records. The mathematics
is that of `saddlescope.curvature` (`density`, `eigenpairs`, `slices`, `second_difference`,
`resampling`) and of `directions`.
"""

import math
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np

from saddlescope.curvature import (
    Eigenpairs,
    HessianOperator,
    NothingToResample,
    alignments,
    bootstrap_spectra,
    derived_seed,
    loss_plane,
    loss_slice,
    measured_curvature,
    save_eigenvectors,
    spectral_density,
    spectral_energy,
    split_curvature,
    temple_bounds,
    top_eigenpairs,
    trace,
)
from saddlescope.measurement.row_work import RowWork
from saddlescope.measurement.view_plan import BELOW, HESSIAN_ONLY

Records = list[dict[str, Any]]

GRID_POINTS: Final = 256
"""Points at which a density is evaluated for drawing."""

SHARE_COLUMNS: Final = ("gradient_below", "gradient_below_lower", "gradient_below_upper")
ARRAYS_OF_A_SPLIT: Final = ("distances", "curvatures", "losses_ahead", "losses_behind")

FROM_THE_ROW: Final = ("kato-temple", "eigenvectors", *HESSIAN_ONLY, "bootstrap")
"""Views that start from the row's own iteration; the others from its matrix alone."""


def density_view(work: RowWork) -> Records:
    """Nodes and weights of stochastic Lanczos quadrature, and the density on a grid."""
    options, seed = work.options, work.own_seed("density")
    found, cost = work.count(
        lambda matrix: spectral_density(
            matrix, steps=options.steps, probes=options.density_probes, seed=seed
        )
    )
    low, high = float(found.nodes.min()), float(found.nodes.max())
    # One per cent of the range; of a single point, of its distance from 0.
    sigma = 0.01 * ((high - low) or abs(high) or 1.0)
    grid = np.linspace(low - 5.0 * sigma, high + 5.0 * sigma, GRID_POINTS)
    band = found.evaluate(grid, sigma=sigma)
    record = {
        "steps": options.steps,
        "probes": options.density_probes,
        "size": found.size,
        "matvecs": found.matvecs,
        "nodes": found.nodes.tolist(),
        "weights": found.weights.tolist(),
        "sigma": sigma,
        "grid": grid.tolist(),
        "density": band.mean.tolist(),
        "density_spread": band.spread.tolist(),
        "gradient_cost": cost,
    }
    return [record]


def trace_view(work: RowWork) -> Records:
    """The trace by random probes, with its standard error."""
    probes, seed = work.options.trace_probes, work.own_seed("trace")
    found, cost = work.count(lambda matrix: trace(matrix, probes=probes, seed=seed))
    record = {
        "trace": found.value,
        "trace_error": found.standard_error,
        "probes": found.probes,
        "matvecs": found.probes,
        "gradient_cost": cost,
    }
    return [record]


def eigenvalues_view(work: RowWork) -> Records:
    """The k outermost eigenvalues at each end."""
    stop, seed, records = work.settings.stop, work.own_seed("eigenvalues"), []
    ends: tuple[Literal["max", "min"], ...] = ("max", "min")
    for end in ends:

        def outermost(matrix: Any, end: Literal["max", "min"] = end) -> Eigenpairs:
            return top_eigenpairs(
                matrix,
                stop,
                k=min(work.options.k, matrix.size),
                end=end,
                seed=seed,
            )

        found, cost = work.count(outermost)
        columns = (found.values, found.lower, found.upper, found.residuals)
        pairs = zip(*(column.tolist() for column in columns), strict=True)
        for rank, (value, lower, upper, residual) in enumerate(pairs, start=1):
            record = {"end": end, "rank": rank, "eigenvalue": value, "residual": residual}
            record |= {"eigenvalue_lower": lower, "eigenvalue_upper": upper}
            record |= {
                "confidence": found.confidence,
                "matvecs": found.matvecs,
                "converged": found.converged,
            }
            records.append(record | {"gradient_cost": cost})
    return records


def kato_temple_view(work: RowWork) -> Records:
    """Bounds of second order in the residual, with a gap certified by a second run."""
    stop, ends = work.settings.stop, work.ends
    found, cost = work.count(lambda matrix: temple_bounds(matrix, ends, stop, seed=work.seed))
    records = []
    for end, bound in (("max", found.lambda_max), ("min", found.lambda_min)):
        record = {
            "end": end,
            "value": bound.value,
            "residual": bound.residual,
            "gap": bound.gap,
            "temple_lower": bound.lower,
            "temple_upper": bound.upper,
            "confidence": found.confidence,
            "matvecs": found.matvecs,
            "gradient_cost": cost,
        }
        records.append(record)
    return records


def eigenvectors_view(work: RowWork) -> Records:
    """v_max and v_min as a file of their own, and a record that names it."""
    row = work.measured
    assert work.folder is not None
    words = {**work.target.identity, **work.settings.key(), "settings": work.settings.column()}
    words |= {"kind": row.kind, "name": row.name, "n": row.n, "seed": row.seed}
    words |= {"dtype": row.dtype, "device": row.device, "converged": row.converged}
    words["epoch"] = "" if words["epoch"] is None else words["epoch"]
    plain = "".join(c if c.isalnum() or c in "._" else "_" for c in row.name)
    mark = derived_seed(0, *(f"{key}={words[key]}" for key in sorted(words)))
    file = f"eigenvectors/{row.kind}-{plain}-{mark:08x}.safetensors"
    save_eigenvectors(work.folder / file, row.ends, metadata=words)
    record = {column: getattr(row, column) for column in ("lambda_max", "lambda_min", "converged")}
    record |= {
        f"{end}_residual": getattr(row, f"{end}_residual") for end in ("lambda_max", "lambda_min")
    }
    return [record | {"file": file, "gradient_cost": 0.0}]


def slices_view(work: RowWork) -> Records:
    """The loss along v_max and v_min, and its second difference beside the eigenvalue."""
    assert work.ends.eigenvectors is not None
    objective, options, records = work.built.base.objective, work.options, []
    radii = np.linspace(-options.radius, options.radius, options.points)
    ends = {"v_max": work.ends.lambda_max, "v_min": work.ends.lambda_min}
    for (direction, end), vector in zip(ends.items(), work.ends.eigenvectors, strict=True):
        found = loss_slice(objective, vector, radii.tolist())
        work.check(0, float("nan"), float("nan"))
        seen = measured_curvature(objective, vector)
        work.check(0, float("nan"), float("nan"))
        record = {
            "direction": direction,
            "eigenvalue": end.value,
            "eigenvalue_lower": end.lower,
            "eigenvalue_upper": end.upper,
            "measured": seen.value,
            "measured_error": seen.error,
            "measured_step": seen.step,
            "loss_noise": seen.noise,
            "agrees": end.lower - seen.error <= seen.value <= end.upper + seen.error,
            "converged": work.ends.converged,
            "radii": found.radii.tolist(),
            "losses": found.losses.tolist(),
            "gradient_cost": round((options.points + seen.evaluations) / 3.0, 2),
        }
        records.append(record)
    return records


def plane_view(work: RowWork) -> Records:
    """The loss on the plane of v_max and v_min."""
    assert work.ends.eigenvectors is not None
    options, (v_max, v_min) = work.options, work.ends.eigenvectors
    radii = np.linspace(-options.radius, options.radius, options.plane_points)
    found = loss_plane(work.built.base.objective, v_max, v_min, radii.tolist())
    record = {
        "lambda_max": work.ends.lambda_max.value,
        "lambda_min": work.ends.lambda_min.value,
        "converged": work.ends.converged,
        "v_max_radii": found.first_radii.tolist(),
        "v_min_radii": found.second_radii.tolist(),
        "losses": found.losses.tolist(),
        "gradient_cost": round(found.losses.size / 3.0, 2),
    }
    return [record]


def alignments_view(work: RowWork) -> Records:
    """How the row's gradient and each optimiser's update lie to the row's v_max and v_min."""
    base, directions = work.built.base, work.directions()
    names = base.objective.vector.names
    updates = {f"{d.method} {d.stage}": d.flat(names) for d in directions}
    found = alignments(work.ends, base.gradient, updates)
    records = []
    for lies, of in zip(found, (None, *directions), strict=True):
        record = {
            "vector": "gradient" if of is None else of.method,
            "stage": None if of is None else of.stage,
            "rho": "" if of is None else " ".join(f"{g}={r:g}" for g, r in of.radii.items()),
            "norm": lies.norm,
            "cos_v_max": lies.v_max,
            "cos_v_min": lies.v_min,
            "update_cost": 0.0 if of is None else round(of.cost, 2),
            "converged": work.ends.converged,
            "gradient_cost": 1.0,
        }
        records.append(record)
    return records


def split_view(work: RowWork) -> Records:
    """Both ends and the gradient: their Gauss-Newton part, and what the loss does along them."""
    base, ends = work.built.base, work.ends
    assert isinstance(base, HessianOperator)
    found = split_curvature(ends, base)
    work.check(0, float("nan"), float("nan"))
    below, cost, share = -BELOW * ends.lambda_max.value, found.cost, (math.nan,) * 3
    if bool(base.gradient.any()):
        energy, more = work.count(
            lambda matrix: spectral_energy(matrix, base.gradient, steps=work.options.steps)
        )
        share, cost = energy.below(below), cost + more
    return [
        {
            **{name: getattr(part, name) for name in ("direction", "hessian", "gauss_newton")},
            "remainder": part.remainder,
            "cos_gradient": part.cos_gradient,
            "gradient_loss_ratio": found.gradient_loss_ratio,
            "loss": found.loss,
            "below": below,
            **dict(zip(SHARE_COLUMNS, share, strict=True)),
            "converged": ends.converged,
            **{name: getattr(part, name).tolist() for name in ARRAYS_OF_A_SPLIT},
            "gradient_cost": round(cost, 2),
        }
        for part in found.parts
    ]


def bootstrap_view(work: RowWork) -> Records:
    """How much the ends depend on which samples there are; skipped where that cannot be seen."""
    target, options = work.target, work.options
    try:
        found = bootstrap_spectra(
            target.model,
            target.criterion,
            target.samples,
            work.subset,
            resamples=options.resamples,
            level=options.level,
            seed=work.seed,
            measured=work.measured,
            progress=work.check,
            matrix=work.settings.matrix,
            stop=work.settings.stop,
        )
    except NothingToResample as reason:
        return [{"skipped": str(reason), "gradient_cost": 0.0}]
    cost = found.bootstrap_gradient_cost
    return [found.columns() | {"skipped": "", "gradient_cost": cost}]


VIEWS: Final[dict[str, Callable[[RowWork], Records]]] = {
    "density": density_view,
    "trace": trace_view,
    "eigenvalues": eigenvalues_view,
    "kato-temple": kato_temple_view,
    "eigenvectors": eigenvectors_view,
    "slices": slices_view,
    "plane": plane_view,
    "alignments": alignments_view,
    "split": split_view,
    "bootstrap": bootstrap_view,
}
"""View to what computes it, in the order of computation."""
