"""The comparisons of the study as docs/study.md fixes them: a seed is a unit, logs the scale."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

CONTRASTS = (
    ("sam", "sgd", False),
    ("imbsam", "sgd", False),
    ("sam-ext", "sgd", False),
    ("sse-sam", "sgd", False),
    ("sse-sam", "imbsam", False),
    ("sse-sam", "sam-ext", True),
)
"""One method against another, and whether by seed: the last two share their first 42 epochs."""

LEVEL = 0.95


@dataclass(frozen=True)
class Contrast:
    """One method against another.

    Attributes:
        method, other: the methods.
        seeds: values of either, the lesser number.
        ratio, lower, upper: of geometric means, with the interval at 95 % by Welch's t (paired: by
            t of the differences); infinite with fewer than two seeds.
        p: two-sided, by permutation (paired: by sign flips), all of them.
        least_p: the least that so many seeds can give.
        p_holm: after Holm over the contrasts of one outcome.
    """

    method: str
    other: str
    seeds: int
    ratio: float
    lower: float
    upper: float
    p: float
    least_p: float
    p_holm: float


def contrasts(values: Mapping[str, Mapping[int, float]]) -> list[Contrast]:
    """Compare the methods of one outcome.

    Args:
        values: by method and seed, positive.

    Returns:
        Those of `CONTRASTS` of which both methods have a value, paired ones by common seeds.
    """
    found = []
    for method, other, paired in CONTRASTS:
        one, two = values.get(method, {}), values.get(other, {})
        if paired:
            common = sorted(one.keys() & two.keys())
            one, two = ({seed: side[seed] for seed in common} for side in (one, two))
        if one and two:
            left, right = (np.log(list(side.values())) for side in (one, two))
            interval = _interval(left, right, paired=paired)
            p, least = _paired_p(left - right) if paired else _permutation_p(left, right)
            seeds = min(len(left), len(right))
            found.append((method, other, seeds, *interval, p, least))
    adjusted = holm([row[-2] for row in found])
    return [Contrast(*row, p_holm) for row, p_holm in zip(found, adjusted, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scand. J. Statist. 6, 1979)."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected.tolist()


def _interval(left: np.ndarray, right: np.ndarray, *, paired: bool) -> tuple[float, float, float]:
    difference = float(left.mean() - right.mean())
    if min(len(left), len(right)) < 2:
        return math.exp(difference), 0.0, math.inf
    compare = stats.ttest_rel if paired else partial(stats.ttest_ind, equal_var=False)
    bounds = compare(left, right).confidence_interval(LEVEL)
    return math.exp(difference), math.exp(bounds.low), math.exp(bounds.high)


def _permutation_p(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Every way to deal the values to two methods; and what complete separation would give."""
    values = np.concatenate([left, right])
    observed = abs(left.mean() - right.mean())
    deals = list(itertools.combinations(range(len(values)), len(left)))
    as_far = 0
    for deal in deals:
        chosen = np.zeros(len(values), bool)
        chosen[list(deal)] = True
        gap = abs(values[chosen].mean() - values[~chosen].mean())
        as_far += gap >= observed * (1 - 1e-12)
    # With equal numbers the opposite deal is as far, so the least is two of them.
    least = (2 if len(left) == len(right) else 1) / len(deals)
    return as_far / len(deals), least


def _paired_p(differences: np.ndarray) -> tuple[float, float]:
    """Every choice of signs."""
    observed = abs(differences.mean())
    signs = list(itertools.product((1.0, -1.0), repeat=len(differences)))
    as_far = sum(abs((differences * s).mean()) >= observed * (1 - 1e-12) for s in signs)
    return as_far / len(signs), 2 / len(signs)
