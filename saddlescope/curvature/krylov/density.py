"""More of a spectrum than its two ends: its density, its moments and its trace.

Density by stochastic Lanczos quadrature: k Lanczos steps from a unit vector v give the nodes θ_i
and weights τ_i of a Gauss rule with Σ τ_i·f(θ_i) = vᵀf(A)v, exact for polynomials of degree up to
2k − 1; its mean over random v is tr f(A)/n (Golub & Meurant, Matrices, Moments and Quadrature,
2010, ch. 6; Ubaru, Chen & Saad, SIAM J. Matrix Anal. Appl. 38, 2017). Trace by Hutchinson's
estimator, with a part taken exactly as in Hutch++ (Meyer, Musco, Musco & Woodruff, SOSA 2021).

Nothing here compares with an absolute number, so scaling the operator scales the results.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.special import ndtr, stdtrit
from torch import Tensor

from saddlescope.curvature.krylov.lanczos import Lanczos, random_start
from saddlescope.curvature.memory import default_budget
from saddlescope.curvature.objective import exact_arithmetic
from saddlescope.curvature.operators import OperatorLike, SymmetricOperator, as_operator
from saddlescope.curvature.seeds import derived_seed
from saddlescope.errors import OperatorError, UsageError
from saddlescope.palette import OTHER
from saddlescope.results import Number, Result, draw_interval
from saddlescope.stages import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False, repr=False)
class ProbeEstimate(Number, Result):
    """Hold a mean over random probes.

    Attributes:
        value: the mean.
        standard_error: of the mean; NaN for a single probe. From few probes it is itself an
            estimate: read `interval`.
        probes: how many.
    """

    value: float
    standard_error: float
    probes: int

    def __str__(self) -> str:
        return f"{self.value:.5g} ± {self.standard_error:.2g}"

    def columns(self) -> dict[str, list[Any]]:
        """Return the one row."""
        low, high = self.interval() if self.probes > 1 else (math.nan, math.nan)
        return {
            "value": [self.value],
            "standard_error": [self.standard_error],
            "lower": [low],
            "upper": [high],
            "probes": [self.probes],
        }

    def _draw(self, axes: "Axes") -> None:
        (low,), (high,) = self.columns()["lower"], self.columns()["upper"]
        draw_interval(axes, 0.0, self.value, low, high)
        axes.set(yticks=[], ylim=(-1, 1), title=f"{self} (bar: 95 %)")

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return Student's interval of what the mean estimates, of probes − 1 degrees of freedom.

        For 95 % it reaches 2.8 standard errors to either side at 5 probes, and 2.0 at 60.

        Raises:
            UsageError: no probability between 0 and 1.
        """
        if not 0.0 < confidence < 1.0:
            raise UsageError(f"confidence = {confidence}: expected a probability between 0 and 1")
        reach = float(stdtrit(max(self.probes - 1, 1), 0.5 + 0.5 * confidence))
        return self.value - reach * self.standard_error, self.value + reach * self.standard_error


class Band(NamedTuple):
    """Hold a function on a grid, shape (m,) each: mean and standard deviation over probes."""

    mean: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True, eq=False)
class SpectralDensity(Result):
    """Hold Gauss rules of the eigenvalue distribution, one a probe. The mass of each is 1.

    Attributes:
        nodes: shape (probes, steps), ascending; in the units of the operator.
        weights: shape (probes, steps), each row sums to 1. A probe whose Krylov space was
            exhausted early is padded with weight 0.
        size: n, the number of eigenvalues that the mass 1 stands for.
        matvecs: products used.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int
    matvecs: int

    def evaluate(self, grid: np.ndarray, *, sigma: float | None = None) -> Band:
        """Return the density on a grid, each node widened to a Gaussian.

        Args:
            grid: shape (m,).
            sigma: standard deviation of the Gaussians; None takes 1 % of the nodes' range.

        Raises:
            UsageError: sigma is not positive, or None where all nodes coincide.
        """
        width = self._default_sigma() if sigma is None else sigma
        if not (math.isfinite(width) and width > 0.0):
            raise UsageError(
                f"sigma = {width}: expected a positive width in the units of the eigenvalues"
                + (" (all nodes coincide, so no default fits)" if sigma is None else "")
            )
        distances = (np.asarray(grid, float)[:, None, None] - self.nodes) / width  # (m, p, k)
        heights = np.exp(-0.5 * distances**2) / (width * math.sqrt(2.0 * math.pi))
        return _band((heights * self.weights).sum(2))

    def cumulative(self, grid: np.ndarray, *, sigma: float = 0.0) -> Band:
        """Return the share of eigenvalues at or below each grid point, widened if sigma > 0."""
        distances = np.asarray(grid, float)[:, None, None] - self.nodes
        below = ndtr(distances / sigma) if sigma > 0.0 else (distances >= 0.0).astype(float)
        return _band((below * self.weights).sum(2))

    def moment(self, power: int) -> ProbeEstimate:
        """Return tr(A^power)/n, without quadrature error up to power 2·steps − 1."""
        return _mean_over_probes((self.weights * self.nodes**power).sum(1))

    @property
    def trace(self) -> ProbeEstimate:
        """Return tr(A), with the standard error from the spread over probes."""
        mean = self.moment(1)
        return ProbeEstimate(
            self.size * mean.value, self.size * mean.standard_error, len(self.nodes)
        )

    def columns(self) -> dict[str, np.ndarray]:
        """Return the density on a grid over all nodes, and its spread over the probes."""
        low, high = float(self.nodes.min()), float(self.nodes.max())
        width = self._default_sigma() or max(abs(low), 1.0) * 1e-3  # one point alone
        grid = np.linspace(low - 4.0 * width, high + 4.0 * width, 400)
        band = self.evaluate(grid, sigma=width)
        return {"eigenvalue": grid, "density": band.mean, "spread": band.spread}

    def __repr__(self) -> str:
        probes, steps = self.nodes.shape
        low, high = float(self.nodes.min()), float(self.nodes.max())
        return (
            f"density of {self.size} eigenvalues from {low:.3g} to {high:.3g}, {probes} probes of "
            f"{steps} steps, trace {self.trace}"
        )

    def _draw(self, axes: "Axes") -> None:
        columns = self.columns()
        axes.plot(
            columns["eigenvalue"],
            np.maximum(columns["density"], 1e-12),
            color=OTHER.color,
            linewidth=1,
        )
        axes.set(yscale="log", xlabel="eigenvalue", ylabel="density")
        axes.set_ylim(1e-5 * float(columns["density"].max()), None)

    def _default_sigma(self) -> float:
        return 0.01 * float(self.nodes.max() - self.nodes.min())


@exact_arithmetic()
def spectral_density(
    operator: OperatorLike,
    *,
    steps: int = 60,
    probes: int = 8,
    seed: int = 0,
    basis_memory: int | None = None,
) -> SpectralDensity:
    """Estimate how the eigenvalues are distributed.

    Args:
        operator: of size n.
        steps: Lanczos steps, and so products, a probe; at most n are taken.
        probes: random start vectors, uniform on the sphere. Each draws its own seed from `seed`
            and its number, so more probes leave the first ones as they are.
        seed: of the probes.
        basis_memory: bytes that the Krylov basis may occupy; None takes a share of what is free. A
            Gauss rule belongs to one unbroken Krylov space, so the basis cannot be restarted.

    Raises:
        UsageError: steps or probes below 1, or more steps than fit into memory.
        OperatorError: see `Lanczos`.
    """
    matrix = as_operator(operator)
    _at_least_one(steps=steps, probes=probes)
    _must_fit(matrix, basis_memory, steps=steps)
    matrix.verify()
    numbers = counted("density", range(probes), text=lambda i: f"probe {i + 1}/{probes}")
    starts = (probe_start(matrix.size, seed, index) for index in numbers)
    rules = [gauss_rule(Lanczos(matrix, start, capacity=steps)) for start in starts]
    longest = max(len(nodes) for nodes, _ in rules)
    return SpectralDensity(
        nodes=np.stack([np.pad(nodes, (0, longest - len(nodes)), "edge") for nodes, _ in rules]),
        weights=np.stack([np.pad(weights, (0, longest - len(weights))) for _, weights in rules]),
        size=matrix.size,
        matvecs=sum(len(nodes) for nodes, _ in rules),
    )


@exact_arithmetic()
def trace(
    operator: OperatorLike, *, probes: int = 30, deflation: int = 0, seed: int = 0
) -> ProbeEstimate:
    """Estimate tr(A) by Hutchinson's estimator with Rademacher probes.

    One probe's variance is 2·Σ_i≠j a_ij² (Avron & Toledo, J. ACM 58, 2011), and the variances of
    the n numbers z_i·(A·z)_i over the probes add up to half of it. From them the standard error is
    known far better at few probes than from the spread of the few estimates.

    Args:
        operator: of size n.
        probes: products for the random part.
        deflation: size of a random sketch of A's range whose part of the trace is taken exactly
            (Hutch++). It costs two products each and pays where a few eigenvalues dominate.
        seed: of sketch and probes.

    Returns:
        The estimate with its standard error: random error of the probes, not rounding. The error
        is skewed where a few eigenvalues dominate; `interval` allows for that.

    Raises:
        UsageError: probes below 1, deflation negative or not below n.
        OperatorError: NaN or Inf in a product.
    """
    matrix = as_operator(operator)
    _at_least_one(probes=probes)
    if not 0 <= deflation < matrix.size:
        raise UsageError(f"deflation = {deflation}: expected 0 to {matrix.size - 1} (n − 1)")
    if deflation:
        _must_fit(matrix, None, each=3, deflation=deflation)  # the sketch, its Q, Q in rows
    matrix.verify()
    basis = torch.zeros((0, matrix.size), dtype=matrix.dtype, device=matrix.device)
    if deflation:
        numbers = counted("trace", range(deflation), text=lambda _: "sketch")
        sketch = [matrix.matvec(_signs(matrix, seed, -1 - i)) for i in numbers]
        basis = torch.linalg.qr(torch.stack(sketch, dim=1)).Q.T.contiguous()
    rows = counted("trace", basis, text=lambda _: "exact part")
    exact = sum(_dot(q, matrix.matvec(q)) for q in rows)
    values = np.empty(probes)
    mean = torch.zeros(matrix.size, dtype=torch.float64, device=matrix.device)
    departures = 0.0  # from the mean, squared and added up as in Welford's algorithm
    for index in counted("trace", range(probes), text=lambda i: f"probe {i + 1}/{probes}"):
        signs = _signs(matrix, seed, index)
        probe = signs - (basis @ signs) @ basis
        product = matrix.matvec(probe)
        terms = signs.double() * (product - (basis @ product) @ basis).double()
        values[index] = exact + float(terms.sum())
        if index == 0:  # what the rest is measured in, so that no square underflows
            unit = float(terms.abs().max()) or 1.0
        terms /= unit
        before = terms - mean
        mean += before / (index + 1)
        departures += _dot(before, terms - mean)
    if not np.isfinite(values).all():
        raise OperatorError("a product behind the trace is NaN or Inf: check weights and inputs")
    error = math.nan
    if probes > 1:
        error = unit * math.sqrt(2.0 * departures / (probes - 1) / probes)
    return ProbeEstimate(float(values.mean()), error, probes)


def gauss_rule(lanczos: Lanczos) -> tuple[np.ndarray, np.ndarray]:
    """Take all steps there is room for; return nodes and weights of the start vector's rule.

    Both have shape (steps taken,); the weights are the squares of the Ritz vectors' first
    coordinates, because the first basis vector is the start vector.
    """
    for _ in counted("step", range(lanczos.capacity - lanczos.steps)):
        if lanczos.exhausted:
            break
        lanczos.step()
    theta, coordinates = lanczos.eigh()
    return theta, coordinates[0] ** 2


def probe_start(size: int, seed: int, index: int) -> Tensor:
    """Return the start vector of probe `index`: uniform on the unit sphere, float64, shape (n,)."""
    return random_start(size, seed=derived_seed(seed, "probe", index))


def _must_fit(
    operator: SymmetricOperator, memory: int | None, *, each: int = 1, **option: int
) -> None:
    """Refuse an option that needs more memory than there is: `each` vectors of length n a unit."""
    ((name, count),) = option.items()
    size, dtype = operator.size, operator.dtype
    vector = size * dtype.itemsize
    wanted = each * min(count, size)
    fit = max((default_budget(operator.device) if memory is None else memory) // vector - 1, 0)
    if fit < wanted:
        raise UsageError(
            f"{name} = {count} needs {(wanted + 1) * vector / 2**20:.3g} MiB for vectors of length "
            f"n; {(fit + 1) * vector / 2**20:.3g} MiB are free for them: {name} = {fit // each} "
            "fits; or free memory, or restrict the parameters"
        )


def _signs(operator: SymmetricOperator, seed: int, index: int) -> Tensor:
    """A vector of ±1, drawn on the CPU whatever the device, shape (n,)."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "probe", index))
    bits = torch.randint(0, 2, (operator.size,), generator=generator, dtype=torch.int8)
    return (2 * bits - 1).to(operator.device, operator.dtype)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())


def _mean_over_probes(values: np.ndarray) -> ProbeEstimate:
    count, unit = len(values), float(np.abs(values).max()) or 1.0
    error = unit * float((values / unit).std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return ProbeEstimate(float(values.mean()), error, count)


def _band(values: np.ndarray) -> Band:
    """From shape (m, probes)."""
    spread = values.std(1, ddof=1) if values.shape[1] > 1 else np.full(len(values), math.nan)
    return Band(values.mean(1), spread)


def _at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"{name} = {count}: expected at least 1")
