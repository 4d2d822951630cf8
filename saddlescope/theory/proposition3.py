"""Proposition 3: when the gradients of head and tail are of one size.

With m i.i.d. samples whose gradients have mean μ and coordinate variances σ², the summed gradient
has E‖Σ∇ℓ_i‖² = m²‖μ‖² + mΣσ². The paper writes m²ξ with ξ = ‖μ‖² + Σσ², which counts the variance m
times too often, and concludes that the ratio of head to tail is Θ(1) only if ξ_head/ξ_tail =
Θ(n²/m²).

Here Θ(1) is a factor of 2 either way in the hypothesis. As printed the conclusion fails, without
any bound. Where the mean dominates the sum (m‖μ‖² >= κΣσ²) it holds of ‖μ‖² in place of ξ. Of ξ
itself it does not hold even there: Σσ² may be small beside m‖μ‖² and large beside ‖μ‖². It does
where the mean dominates each sample (‖μ‖² >= κΣσ²).
"""

import math

import numpy as np

from saddlescope.theory.statements import Array, Instances, Judgement, Shape, Statement

WITHIN = 2.0
"""Θ(1): the factor, either way, within which the ratio of the gradients' sizes lies."""

PRINTED_WITHIN = 100.0
"""The factor that the printed conclusion is allowed; none would do."""

KAPPA = 10.0
"""By how much a mean dominates."""


def squared_sizes(instances: Instances) -> tuple[Array, Array]:
    """Compute E‖Σ∇ℓ_i‖² of head and tail, shape (N,) each."""
    head, tail = (
        instances[count] ** 2 * instances[f"mean_{group}"]
        + instances[count] * instances[f"spread_{group}"]
        for group, count in (("head", "m"), ("tail", "n"))
    )
    return head, tail


def family(imbalance: float) -> Instances:
    """Make the counterexample: no mean, and spreads that give the gradients one size exactly.

    ξ_head/ξ_tail is n/m where n²/m² is claimed: off by the imbalance m/n, which knows no bound.

    Args:
        imbalance: m/n.
    """
    one = np.ones(1)
    return {
        "m": imbalance * one,
        "n": one,
        "mean_head": 0.0 * one,
        "mean_tail": 0.0 * one,
        "spread_head": one,
        "spread_tail": imbalance * one,
    }


def _decode(points: Array, shape: Shape) -> Instances:
    del shape
    free = iter(points.T)
    m, imbalance = 10.0 ** (1.0 + 4.0 * next(free)), 10.0 ** (4.0 * next(free))
    n = np.maximum(1.0, m / imbalance)
    found = {"m": m, "n": n}
    for group in ("head", "tail"):
        found[f"mean_{group}"] = 10.0 ** (8.0 * next(free) - 4.0)
        # Spreads from far below to far above the mean, per sample.
        found[f"spread_{group}"] = found[f"mean_{group}"] * 10.0 ** (10.0 * next(free) - 5.0)
    # The tail's scale is set so that the sizes are equal within a factor of 4, either way.
    head, tail = squared_sizes(found)
    scale = head / tail * 4.0 ** (2.0 * next(free) - 1.0)
    return found | {key: found[key] * scale for key in ("mean_tail", "spread_tail")}


def _judge(*, quantity: str, dominates: str | None, within: float) -> object:
    def judge(instances: Instances, shape: Shape) -> Judgement:
        del shape
        head, tail = squared_sizes(instances)
        with np.errstate(divide="ignore", invalid="ignore"):
            hypothesis = np.abs(np.log(head / tail)) <= math.log(WITHIN)
        hypothesis &= (instances["m"] >= instances["n"]) & (instances["n"] >= 1)
        for group, count in (("head", "m"), ("tail", "n")):
            mean, spread = instances[f"mean_{group}"], instances[f"spread_{group}"]
            if dominates == "sum":
                hypothesis &= instances[count] * mean >= KAPPA * spread
            elif dominates == "sample":
                hypothesis &= mean >= KAPPA * spread
        xi = {
            group: instances[f"mean_{group}"]
            + (instances[f"spread_{group}"] if quantity == "xi" else 0.0)
            for group in ("head", "tail")
        }
        # As many times as ξ_head/ξ_tail is n²/m².
        off = xi["head"] / xi["tail"] * (instances["m"] / instances["n"]) ** 2
        slack = math.log(within) - np.abs(np.log(off))
        return Judgement(hypothesis, slack)

    return judge


def _variant(
    variant: str, says: str, *, quantity: str, dominates: str | None, within: float, expected: bool
) -> Statement:
    return Statement(
        key="proposition3",
        variant=variant,
        says=says,
        draw_shape=lambda _: {},
        unknowns=lambda _: 7,
        decode=_decode,
        judge=_judge(quantity=quantity, dominates=dominates, within=within),  # type: ignore[arg-type]
        expected=expected,
    )


_PREMISE = "gradients' squared sizes within a factor of 2"
PRINTED = _variant(
    "as printed",
    f"{_PREMISE} ⇒ ξ_head/ξ_tail = n²/m² within a factor of {PRINTED_WITHIN:g}",
    quantity="xi",
    dominates=None,
    within=PRINTED_WITHIN,
    expected=False,
)
MEAN_OF_SUM_XI = _variant(
    "where the mean dominates the sum",
    f"{_PREMISE}, m‖μ‖² >= {KAPPA:g}Σσ² ⇒ the same",
    quantity="xi",
    dominates="sum",
    within=PRINTED_WITHIN,
    expected=False,
)
CORRECTED = _variant(
    "of the means, where the mean dominates the sum",
    f"{_PREMISE}, m‖μ‖² >= {KAPPA:g}Σσ² ⇒ ‖μ_head‖²/‖μ_tail‖² = n²/m² within a factor of "
    f"{WITHIN * (1 + 1 / KAPPA):g}",
    quantity="mean",
    dominates="sum",
    within=WITHIN * (1.0 + 1.0 / KAPPA) * (1.0 + 1e-12),
    expected=True,
)
CORRECTED_XI = _variant(
    "where the mean dominates each sample",
    f"{_PREMISE}, ‖μ‖² >= {KAPPA:g}Σσ² ⇒ ξ_head/ξ_tail = n²/m² within a factor of "
    f"{WITHIN * (1 + 1 / KAPPA):g}",
    quantity="xi",
    dominates="sample",
    within=WITHIN * (1.0 + 1.0 / KAPPA) * (1.0 + 1e-12),
    expected=True,
)
